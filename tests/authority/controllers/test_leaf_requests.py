"""Leaves that operators ask for: by the API, by the command line, and what the journal says of them."""

import asyncio
import json
import logging
import ssl
import stat
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from authority.controllers.context import ControllerContext
from authority.controllers.leaf_requests import LeafOrder, ManualLeaf, issue
from authority.issuer.interface import IssuedLeaf, LeafRequest
from authority.issuer.serialized import SerializedIssuer
from authority.journal.directory import DirectoryJournal
from authority.journal.record_types import LeafRecord, OverrideRecord
from authority.journal.store import JournalStore
from authority.rotation.events import LeafIssued
from authority.rotation.leaf_renewal import LeafSubject
from authority.rotation.operator_requests import RotationRefused
from tests.harness.authority.deployment import AuthorityDeployment, ask, command
from tests.harness.authority.harness import AuthorityHarness, alive
from tests.harness.authority.journal_builder import DOMAIN, PLAYGROUND, START, running
from tests.harness.authority.memory_backends import MemoryIssuer, MemoryJournal, MemorySigner
from tests.harness.virtual_time import in_virtual_time
from tests.harness.waiting import eventually
from tidemark.certificates import fingerprint, leaf_issuer, not_after, not_before, parse_leaf
from tidemark.trust import Trust

ORDER = LeafOrder(LeafSubject("grace", "grace", ("grace.example.com",), ("::1",)), "ada", "a look by hand")
WANTED: dict[str, Any] = {"name": "grace", "dns": ["grace.example.com"], "ip": ["0:0::1"], "reason": "a look by hand"}


@in_virtual_time
async def test_manual_leaf_is_signed_as_workload_leaves_and_recorded() -> None:
    harness = AuthorityHarness(proving=False)
    harness.boot()
    await harness.until(START + 50)
    made = await harness.rotation.commands.issue_leaf(ORDER)
    assert (not_before(made.leaf), not_after(made.leaf)) == (START + 45, START + 80)  # its CA ends then
    assert fingerprint(leaf_issuer(parse_leaf(*_pems(made)), [made.signing.certificate], (), START + 50))
    (event,) = harness.of(LeafIssued)
    assert (event.serial, event.not_after, event.who) == (made.serial, START + 80, "ada")
    assert harness.journal.records[harness.journal.last] == LeafRecord(
        START + 50, made.signing.sha256, "grace", ("grace.example.com", "::1"), made.serial, "ada", "a look by hand"
    )
    await harness.stop()


def _pems(made: ManualLeaf) -> tuple[bytes, bytes]:
    return made.issued.certificate_pem, made.issued.key_pem


@alive
async def test_leaf_that_cannot_be_recorded_is_not_handed_out(harness: AuthorityHarness) -> None:
    await harness.until(START + 5)
    issue_leaf = harness.issuer.issue_leaf

    async def slow(ca_id: str, request: LeafRequest) -> IssuedLeaf:
        """While we sign, somebody else decides something."""
        harness.journal.put(OverrideRecord(harness.now(), "a" * 64, "ada", "elsewhere"))
        return await issue_leaf(ca_id, request)

    harness.issuer.issue_leaf = slow  # type: ignore[method-assign]  # one issuer that is slow
    with pytest.raises(RotationRefused, match="taken; try again"):
        await harness.rotation.commands.issue_leaf(ORDER)
    assert harness.of(LeafIssued) == []
    assert not any(isinstance(record, LeafRecord) for record in harness.journal.records.values())


async def test_manual_leaf_is_refused_while_no_ca_signs() -> None:
    builder, signing = running()
    journal = MemoryJournal()
    trust = Trust(DOMAIN, tuple(signer.verifier for signer in MemorySigner().signers))
    here = ControllerContext(JournalStore(journal), trust, PLAYGROUND, lambda: signing.not_after, lambda _: None)
    with pytest.raises(RotationRefused, match="leaf: expected a CA that signs, found none at present"):
        await issue(here, SerializedIssuer(MemoryIssuer()), builder.history, ORDER)
    assert journal.last == 0


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[AuthorityDeployment]:
    deployment = AuthorityDeployment.create(tmp_path / "deployment", preset="testing")
    deployment.init()
    async with deployment.running():
        yield deployment


async def post(deployment: AuthorityDeployment, role: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    async with (
        deployment.session(deployment.token(role) if role else "") as session,
        session.post("/api/v1/leaf", json=body) as response,
    ):
        return response.status, await response.json()


async def recorded(deployment: AuthorityDeployment) -> list[LeafRecord]:
    entries = await DirectoryJournal(deployment.state / "journal").read()
    return [entry.record for entry in entries if isinstance(entry.record, LeafRecord)]


async def test_manual_leaf_over_api_records_operator_and_reason(
    deployment: AuthorityDeployment, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        status, answer = await post(deployment, "operator", WANTED)
    assert status == 200
    leaf = parse_leaf(answer["certificate"].encode(), answer["key"].encode())
    assert not_after(leaf.certificate) == answer["not_after"]
    (record,) = await recorded(deployment)
    assert (record.name, record.names, record.ca) == ("grace", ("grace.example.com", "::1"), answer["ca"])
    assert (record.serial, record.reason) == (f"{leaf.certificate.serial_number:x}", "a look by hand")
    assert record.who == "operator from 127.0.0.1"
    async with deployment.session() as reader:
        events = (await ask(reader, "/api/v1/status"))["events"]
    (event,) = [event for event in events if event["event"] == "leaf_issued"]
    assert (event["name"], event["serial"], event["who"]) == ("grace", record.serial, record.who)
    assert "leaf_issued" in caplog.text
    assert "PRIVATE" not in caplog.text + json.dumps(events)


async def test_manual_leaf_is_for_operators_alone(deployment: AuthorityDeployment) -> None:
    assert (await post(deployment, "agent", WANTED))[0] == 403
    assert (await post(deployment, "", WANTED))[0] == 401
    assert await recorded(deployment) == []


async def test_names_that_no_leaf_may_have(deployment: AuthorityDeployment) -> None:
    for wrong, sentence in (
        ({"reason": " "}, "leaf: field 'reason': expected why, found nothing"),
        ({"name": ""}, "leaf: field 'name': expected 1 to 64 characters, found 0"),
        ({"name": "x" * 65}, "leaf: field 'name': expected at most 64 characters, found 65"),
        ({"name": "tidemark-authority"}, "leaf: field 'name': expected another name than the authority's own"),
        ({"name": "a\nb"}, "leaf: field 'name': expected characters that print"),
        ({"dns": ["tidemark-authority"]}, "leaf: field 'dns': expected other names than the authority's own"),
        ({"dns": ["a b"]}, "leaf: field 'dns': expected DNS names, found 'a b'"),
        ({"dns": "grace"}, "leaf: field 'dns': expected a list, found str"),
        ({"dns": ["grace"] * 200}, "leaf: field 'dns': expected, with 'ip', at most 200 names, found 201"),
        ({"ip": ["localhost"]}, "leaf: field 'ip': expected IP addresses, found 'localhost'"),
        ({"dns": [], "ip": []}, "leaf: field 'dns': expected a DNS name here or an address in 'ip', found neither"),
    ):
        status, answer = await post(deployment, "operator", WANTED | wrong)
        assert status == 400
        assert answer["error"].startswith(sentence)
    assert await recorded(deployment) == []


def words(deployment: AuthorityDeployment, out: Path, *more: str) -> list[str | Path]:
    names = ["--name", "grace", "--dns", "grace.example.com", "--dns", "grace", "--ip", "127.0.0.1"]
    return ["--config", deployment.config_file, "leaf", *names, "--out", out, "--reason", "a look by hand", *more]


async def test_the_command_writes_a_leaf_that_the_published_bundle_vouches_for(
    deployment: AuthorityDeployment, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "grace"
    found = await command(*words(deployment, out))
    assert (found.status, found.err) == (0, "")
    printed = json.loads(found.out)
    assert set(printed) == {"ca", "epoch", "serial", "not_after"}
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {
        "tls.crt": 0o644,
        "tls.key": 0o600,
    }
    bundle = await deployment.bundle("nats-0")
    leaf = parse_leaf((out / "tls.crt").read_bytes(), (out / "tls.key").read_bytes())
    now = not_before(leaf.certificate) + 1
    signer = leaf_issuer(leaf, bundle.certificates, bundle.statement.withdrawn, now)
    assert fingerprint(signer) == printed["ca"]
    (record,) = await recorded(deployment)
    assert (record.names, record.serial) == (("grace.example.com", "grace", "127.0.0.1"), printed["serial"])
    status = await command("--config", deployment.config_file, "status")
    assert "leaf_issued" in status.out
    assert await greeted(deployment, bundle.bundle.ca.decode(), out, printed["ca"]) == "grace"


async def greeted(deployment: AuthorityDeployment, cas: str, out: Path, ca: str) -> str:
    """The common name that a workload sees of a client that comes with the leaf in ``out``."""
    await eventually(partial(deployment.has_leaf_of, "nats-0", ca), "the workload's leaf")
    mount = deployment.root / "nats-0/leaf"
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=cas)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(mount / "tls.crt", mount / "tls.key")
    client = ssl.create_default_context(cadata=cas)
    client.load_cert_chain(out / "tls.crt", out / "tls.key")

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        subject = writer.get_extra_info("peercert")["subject"]
        writer.write(json.dumps(subject).encode())
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost")
        (((_, name),),) = json.loads(await reader.read())
        writer.close()
    return str(name)


async def test_leaf_command_overwrites_only_with_force(deployment: AuthorityDeployment, tmp_path: Path) -> None:
    (tmp_path / "tls.key").write_text("dear to somebody")
    refused = await command(*words(deployment, tmp_path))
    assert (refused.status, refused.out) == (2, "")
    assert refused.err == f"{tmp_path}/tls.key: expected no such file, found one; --force writes over it\n"
    assert not (tmp_path / "tls.crt").exists()
    assert await recorded(deployment) == []  # what nobody could write was not signed either

    assert (await command(*words(deployment, tmp_path, "--force"))).status == 0
    parse_leaf((tmp_path / "tls.crt").read_bytes(), (tmp_path / "tls.key").read_bytes())
    assert stat.S_IMODE((tmp_path / "tls.key").stat().st_mode) == 0o600


async def test_the_command_says_what_was_refused_and_where_it_cannot_write(
    deployment: AuthorityDeployment, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    token = ["--token-file", str(deployment.state / "tokens" / "agent")]
    refused = await command(*words(deployment, out, *token))
    assert refused.status == 1
    assert refused.err == "/api/v1/leaf: expected the token of an operator, found that of agent\n"
    (tmp_path / "file").touch()
    nowhere = await command(*words(deployment, tmp_path / "file" / "out"))
    assert nowhere.status == 2
    assert f"{tmp_path}/file/out: expected to write tls.crt and tls.key there, found Not a directory" in nowhere.err
    assert await recorded(deployment) == []
