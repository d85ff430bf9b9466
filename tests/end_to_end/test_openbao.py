"""The real program on a real OpenBao: set up, sealed at the start, held at the gate, killed, its token revoked."""

import asyncio
import json
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from authority.app.run import run
from authority.config.openbao import SECRET_ID_VARIABLE, TOKEN_VARIABLE
from authority.journal.history import EpochCa, History
from authority.journal.openbao import OpenBaoJournal
from authority.journal.record_types import StatementRecord
from authority.journal.replay import replay
from tests.harness.authority.deployment import AGENTS, AuthorityDeployment, Program, ask, command
from tests.harness.authority.receipt_fleet import Fleet
from tests.harness.authority.replicas import two
from tests.harness.openbao.server import ROOT_TOKEN, OpenBaoNamespace, OpenBaoServer
from tests.harness.waiting import eventually
from tidemark.certificates import not_after
from tidemark.trust import Trust


@pytest.fixture
async def empty_deployment(empty_space: OpenBaoNamespace, tmp_path: Path) -> AuthorityDeployment:
    """Configured for a namespace where nothing was made but the role that the authority logs in with."""
    login = await empty_space.approle({"token_policies": ["tidemark"], "token_ttl": "10m"})
    server = empty_space.server
    table = [
        'issuer = "openbao"',
        "[openbao]",
        f'url = "{server.url}"',
        f'namespace = "{empty_space.namespace}"',
        f'ca_file = "{server.ca_file}"',
        f'role_id = "{login.role_id}"',
    ]
    deployment = AuthorityDeployment.create(tmp_path / "deployment", preset="playground", more="\n".join(table))
    return AuthorityDeployment(deployment.root, {SECRET_ID_VARIABLE: login.secret_id})


@pytest.fixture
async def deployment(empty_deployment: AuthorityDeployment, empty_space: OpenBaoNamespace) -> AuthorityDeployment:
    """Set up as an operator would, with what ``init --openbao`` prints."""
    printed = await init(empty_deployment)
    path = empty_deployment.root / "policy.hcl"
    path.write_text(printed)
    empty_space.server.command("policy", "write", "tidemark", str(path), namespace=empty_space.namespace)
    return empty_deployment


async def init(deployment: AuthorityDeployment) -> str:
    done = await command(
        "--config", deployment.config_file, "init", "--openbao", environment={TOKEN_VARIABLE: ROOT_TOKEN}
    )
    assert (done.status, done.err) == (0, "")
    return done.out


async def history(space: OpenBaoNamespace) -> History:
    return replay(await OpenBaoJournal(space.client, space.layout.kv, space.layout.prefix).read())


async def test_init_prints_created_objects_and_the_policy(
    empty_deployment: AuthorityDeployment, empty_space: OpenBaoNamespace
) -> None:
    first, again = await init(empty_deployment), await init(empty_deployment)
    comments, _, policy = first.partition("\n\n")
    assert policy == empty_space.layout.policy()
    assert [line.split()[:2] for line in comments.splitlines()] == [["#", "made"]] * 12
    assert [line.split()[:2] for line in again.partition("\n\n")[0].splitlines()] == [["#", "kept"]] * 12
    assert sorted(path.name for path in (empty_deployment.state / "tokens").iterdir()) == ["agent", "operator"]
    assert not (empty_deployment.state / "roots").exists(), "keys are OpenBao's alone"


async def test_start_without_prerequisites_names_each_missing_one(
    empty_deployment: AuthorityDeployment, empty_space: OpenBaoNamespace
) -> None:
    config = ("--config", empty_deployment.config_file)
    refused = await command(*config, "run", environment={SECRET_ID_VARIABLE: "sesame"})
    assert refused.status == 3
    assert "auth/approle/login: expected OpenBao to accept the login, found 400" in refused.err
    assert "sesame" not in refused.err
    refused = await command(*config, "run", environment=empty_deployment.environment)
    assert refused.status == 3
    assert "expected the token's policies to allow 'list' on 'control/issuers'" in refused.err
    await empty_space.client.write("sys/policies/acl/tidemark", {"policy": empty_space.layout.policy()})
    refused = await command(*config, "run", environment=empty_deployment.environment)
    assert refused.status == 3
    assert "route entry not found.; look at mount and namespace, and run 'init --openbao' first" in refused.err
    refused = await command(*config, "init", "--openbao", environment={TOKEN_VARIABLE: "sesame"})
    assert refused.status == 3
    assert "expected OpenBao to know our token, found 403" in refused.err


async def start_on_sealed_openbao(program: Program, openbao: OpenBaoServer) -> None:
    """The program waits for the seal: it can be stopped while it waits, and starts once OpenBao is unsealed."""
    await openbao.seal()
    try:
        await program.launch()
        await eventually(partial(says, program, "expected OpenBao unsealed, found it sealed"), "a report of the seal")
        assert await program.signal(signal.SIGTERM) == 0
        await program.launch()
    finally:
        await openbao.unseal()
    await eventually(program._is_listening, "the API to listen")


async def rotate(deployment: AuthorityDeployment, space: OpenBaoNamespace, first: EpochCa) -> None:
    """Force a rotation: without a proof the new CA signs nothing; with all proofs OpenBao signs with it."""
    before = await history(space)
    rotated = await command("--config", deployment.config_file, "rotate", "--reason", "a drill")
    assert rotated.status == 0
    assert json.loads(rotated.out)["sequence"] > before.statements[-1].statement.sequence
    assert await space.default_name() == first.ca_id
    fleet = Fleet(deployment)

    async def activated() -> bool:
        await fleet.report()
        signing = (await history(space)).signing
        return signing is not None and signing.issue_order > first.issue_order

    await eventually(activated, "the activation of the new CA")
    await eventually(partial(is_the_default, space), "OpenBao to sign with the new CA")
    await eventually(partial(has_leaves, deployment, space), "leaves of the new CA")


async def restart_without_token(program: Program, space: OpenBaoNamespace) -> None:
    """Kill the program and revoke its token, and start it again: the new process logs in for a new token."""
    before = await history(space)
    assert await program.signal(signal.SIGKILL) == -signal.SIGKILL
    await space.client.write("sys/leases/revoke-prefix/auth/approle/login", {})
    await program.start()
    assert (await history(space)).statements[: len(before.statements)] == before.statements


async def test_authority_on_openbao_rotates_and_continues_after_a_kill(
    deployment: AuthorityDeployment, empty_space: OpenBaoNamespace, openbao: OpenBaoServer
) -> None:
    space = empty_space
    async with Program(deployment) as program:
        await start_on_sealed_openbao(program, openbao)
        await deployment.until_published()
        first = (await history(space)).signing
        assert first is not None
        assert await space.default_name() == first.ca_id
        for name in AGENTS:
            await eventually(partial(deployment.has_leaf_of, name, first.sha256), "a leaf of the first CA")
        await rotate(deployment, space, first)
        await restart_without_token(program, space)
        # A token that is revoked while the program runs is replaced as well.
        await space.client.write("sys/leases/revoke-prefix/auth/approle/login", {})
        assert (await command("--config", deployment.config_file, "rotate", "--reason", "again")).status == 0
        await eventually(partial(holds_what_the_journal_names, space), "no CA too many")
        assert await program.signal(signal.SIGTERM) == 0
    last = await history(space)
    assert [signed.statement.sequence for signed in last.statements] == list(range(1, len(last.statements) + 1))
    printed = await command("--config", deployment.config_file, "trust", environment=deployment.environment)
    (key,) = Trust.parse(printed.out.encode()).keys
    assert key.name == "bus.example.com/tidemark-1"
    assert deployment.environment[SECRET_ID_VARIABLE] not in program.log.read_text()


async def test_authority_signs_nothing_while_the_openbao_clock_differs(
    deployment: AuthorityDeployment, empty_space: OpenBaoNamespace
) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(run(deployment.config, stop, lambda: time.time() - 3600))

    async def has_said() -> bool:
        if task.done():
            task.result()
        if not (deployment.state / "api.json").exists():
            return False
        async with deployment.session(deployment.token("operator")) as session:
            failures = (await ask(session, "/api/v1/status"))["failures"]
        return any("clock: expected it within 5 s of OpenBao's, found it -3" in one["error"] for one in failures)

    try:
        await eventually(has_said, "a word about the clock")
        assert (await history(empty_space)).statements == ()
        assert await empty_space.names("keys") == set()
    finally:
        stop.set()
        await asyncio.gather(task)


async def test_second_replica_on_openbao_takes_over(
    deployment: AuthorityDeployment, empty_space: OpenBaoNamespace
) -> None:
    async with two(deployment) as (first, second):
        forwarded = await second.rotate("asked of the one that follows")
        first.send(signal.SIGKILL)
        await eventually(second.leads, "the other to take over")
        assert await second.rotate("by the one that took over") > forwarded
        await first.launch()
        await eventually(lambda: first.follows(second), "the first to follow")
        await deployment.until_published()
        shown = await deployment.bundle("nats-0")
        await eventually(partial(holds_what_the_journal_names, empty_space), "no CA too many")
    last = await history(empty_space)
    digests = {signed.statement.sequence: signed.digest for signed in last.statements}
    assert list(digests) == list(range(1, len(digests) + 1))
    assert digests[shown.sequence] == shown.digest
    asked = [entry.record.who for entry in last.entries if isinstance(entry.record, StatementRecord)]
    assert [who for who in asked if who] == ["operator from 127.0.0.1, for 127.0.0.1", "operator from 127.0.0.1"]


async def holds_what_the_journal_names(space: OpenBaoNamespace) -> bool:
    keys, issuers = await space.names("keys"), await space.names("issuers")
    return keys == issuers == {ca.ca_id for ca in (await history(space)).cas}


async def says(program: Program, words: str) -> bool:
    return words in program.log.read_text()


async def is_the_default(space: OpenBaoNamespace) -> bool:
    signing = (await history(space)).signing
    return signing is not None and await space.default_name() == signing.ca_id


async def has_leaves(deployment: AuthorityDeployment, space: OpenBaoNamespace) -> bool:
    signing = (await history(space)).signing
    assert signing is not None
    return all(
        [
            await deployment.has_leaf_of(name, signing.sha256)
            and not_after(deployment.leaf(name).certificate) <= signing.not_after
            for name in AGENTS
        ]
    )
