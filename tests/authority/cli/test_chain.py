"""An auditor follows the chain of statements: what is missing, doubled or wrongly joined is named."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from authority.cli import bundle_sources
from authority.cli.bundle_sources import BundleUnreadable
from authority.cli.chain import StatementChain, follow
from tests.harness.authority.deployment import AuthorityDeployment, command
from tests.harness.contract.issued_bundles import IssuedBundles
from tidemark.bundle import NO_PREVIOUS, Bundle, Cause
from tidemark.verify import VerifiedBundle

NOW = 1_800_000_000


@pytest.fixture
async def bundles(tmp_path: Path) -> IssuedBundles:
    return await IssuedBundles.create(tmp_path / "state", NOW)


async def chain_of(bundles: IssuedBundles, count: int) -> list[VerifiedBundle]:
    made: list[VerifiedBundle] = []
    for sequence in range(1, count + 1):
        made.append(await bundles.bundle(sequence, previous=made[-1].digest if made else NO_PREVIOUS))
    return made


def named(verified: list[VerifiedBundle]) -> dict[str, Bundle]:
    return {f"b{one.sequence}": one.bundle for one in verified}


async def test_complete_chain_is_good_in_any_order(bundles: IssuedBundles) -> None:
    made = await chain_of(bundles, 4)
    assert follow(named(made[::-1]), bundles.trust) == StatementChain(1, 4, 4, ())
    twice = named(made) | {"copy": made[1].bundle}
    assert follow(twice, bundles.trust) == StatementChain(1, 4, 4, ())
    assert follow(named(made[2:]), bundles.trust) == StatementChain(3, 4, 2, ())  # what was folded away is no fault
    assert follow({}, bundles.trust) == StatementChain(0, 0, 0, ())


async def test_gap_in_a_chain_is_named(bundles: IssuedBundles) -> None:
    made = await chain_of(bundles, 6)
    found = follow(named([made[0], made[2], made[5]]), bundles.trust)
    assert [fault.partition(", found")[0] for fault in found.faults] == [
        "gap: expected statement 2 between 1 (b1) and 3 (b3)",
        "gap: expected statement 4 to 5 between 3 (b3) and 6 (b6)",
    ]


async def test_two_statements_of_one_sequence_are_a_fork(bundles: IssuedBundles) -> None:
    made = await chain_of(bundles, 3)
    other = await bundles.bundle(2, Cause.FORCED, made[0].digest)
    (fault,) = follow(named(made) | {"other": other.bundle}, bundles.trust).faults
    assert fault.startswith(
        f"fork: expected one statement 2, found two: {made[1].digest} (b2) and {other.digest} (other)"
    )


async def test_two_statements_with_one_predecessor_are_a_fork(bundles: IssuedBundles) -> None:
    made = await chain_of(bundles, 2)
    other = await bundles.bundle(3, previous=made[0].digest)
    (fault,) = follow(named([*made, other]), bundles.trust).faults
    assert fault == (
        "fork: b3: statement 3: expected to follow statement 2 (b2), found that it follows statement 1 (b1) as that "
        "one does"
    )


async def test_wrong_previous_digest_is_named_with_both_digests(bundles: IssuedBundles) -> None:
    made = await chain_of(bundles, 1)
    stray = await bundles.bundle(2, previous="ab" * 32)
    (fault,) = follow(named([*made, stray]), bundles.trust).faults
    assert fault == f"wrong previous: b2: statement 2: expected {made[0].digest} (statement 1, b1), found {'ab' * 32}"
    (fault,) = follow({"first": (await bundles.bundle(1, previous="ab" * 32)).bundle}, bundles.trust).faults
    assert fault == f"first: statement 1: expected no previous one, found {'ab' * 32}"


async def test_statement_without_a_trusted_signature_is_not_in_the_chain(
    bundles: IssuedBundles, tmp_path: Path
) -> None:
    made = await chain_of(bundles, 3)
    other = await IssuedBundles.create(tmp_path / "other", NOW)
    by_name = named(made) | {"b2": (await other.bundle(2)).bundle, "b3": replace(made[2].bundle, ca=b"")}
    found = follow(by_name, bundles.trust)
    assert (found.first, found.last) == (1, 1)
    assert [fault.partition(":")[0] for fault in found.faults] == ["b2", "b3"]
    assert "step 2 (signature)" in found.faults[0]
    assert "step 5 (digest)" in found.faults[1]


async def test_directory_stands_for_all_bundles_in_it(bundles: IssuedBundles, tmp_path: Path) -> None:
    made = await chain_of(bundles, 3)
    kept = tmp_path / "kept"
    (kept / "one").mkdir(parents=True)
    (kept / "one" / "ca.crt").write_bytes(made[0].bundle.ca)
    (kept / "one" / "bundle.note").write_bytes(made[0].bundle.note)
    (kept / "two.json").write_bytes(made[1].bundle.to_json())
    single = tmp_path / "three.json"
    single.write_bytes(made[2].bundle.to_json())
    found = bundle_sources.read_all([kept, single])
    assert set(found) == {str(kept / "one"), str(kept / "two.json"), str(single)}
    assert follow(found, bundles.trust) == StatementChain(1, 3, 3, ())
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        BundleUnreadable, match=r"empty: expected bundles, as directories with bundle\.note or as \*\.json"
    ):
        bundle_sources.read_all([tmp_path / "empty"])


async def test_verify_chain_joins_bundles_of_the_api_and_of_files(tmp_path: Path) -> None:
    deployment = AuthorityDeployment.create(tmp_path / "deployment", preset="testing")
    deployment.init()
    early = 60 - time.time() % 1200  # a minute past the start of the epoch, so that nothing is due meanwhile
    config = ["--config", str(deployment.config_file)]
    first = tmp_path / "kept" / "first.json"
    first.parent.mkdir()
    async with deployment.running(lambda: time.time() + early):
        first.write_bytes((await deployment.bundle("nats-0")).bundle.to_json())
        for _ in range(2):
            assert (await command(*config, "rotate", "--reason", "a drill")).status == 0
        held = await command(*config, "verify", "--chain")
        assert (held.status, held.out) == (0, "chain: good: 3 statements, 1 to 3\n")
        await deployment.until_published()
        last = await deployment.bundle("nats-0")
    (first.parent / "last.json").write_bytes(last.bundle.to_json())
    broken = await command(*config, "verify", "--chain", first.parent)
    assert broken.status == 1
    assert broken.out.splitlines()[1] == "chain: broken: 2 statements, 1 to 3"
    assert broken.out.startswith(f"gap: expected statement 2 between 1 ({first}) and 3 ({first.parent}/last.json)")
    nothing = await command(*config, "verify")
    assert (nothing.status, nothing.err) == (
        2,
        "verify: expected PATHs to judge (or --chain, which also takes --url), found none\n",
    )
