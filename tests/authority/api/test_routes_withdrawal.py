"""Withdrawals and overrides over the API of a whole authority in this process, with agents that report to it."""

import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import nats
import pytest

from authority.journal.directory import DirectoryJournal
from authority.journal.record_types import OverrideRecord, WithdrawalRecord
from tests.harness.authority.deployment import AGENTS, AuthorityDeployment, ask, command, receipt
from tests.harness.nats.jetstream_broker import JetStreamBroker
from tests.harness.waiting import eventually
from tidemark.bundle import Cause
from tidemark.certificates import fingerprint
from tidemark.verify import Mark

EPOCH = 1200  # seconds, of the preset "testing"
EARLY = 60 - time.time() % EPOCH  # makes it a minute past the start of the epoch, so that nothing is due meanwhile


NONE: dict[str, Any] = {"withdrawals": [], "connections": None}


def clock() -> float:
    return time.time() + EARLY


@dataclass
class Site:
    """A deployment, and both sides of its API."""

    deployment: AuthorityDeployment
    operator: aiohttp.ClientSession
    agent: aiohttp.ClientSession
    numbers: dict[str, int] = field(default_factory=dict)

    async def prove(self, *names: str) -> None:
        """These agents report that they use what their mounts show."""
        for name in names or AGENTS:
            self.numbers[name] = self.numbers.get(name, 0) + 1
            bundle = await self.deployment.bundle(name)
            mark = Mark(bundle.sequence, bundle.digest)
            report = receipt(name, mark, self.deployment.leaf(name), self.numbers[name])
            async with self.agent.post("/api/v1/receipts", data=report.to_json()) as response:
                response.raise_for_status()

    async def post(self, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        async with self.operator.post(f"/api/v1/{path}", json=body) as response:
            return response.status, await response.json()

    async def signing(self) -> str:
        return str((await ask(self.operator, "/api/v1/status"))["signing"]["sha256"])

    async def until_leaves_of(self, ca: str) -> None:
        """Wait until every mount has a leaf that this CA signed."""
        for name in AGENTS:
            await eventually(lambda name=name: self.deployment.has_leaf_of(name, ca), f"{name}'s leaf")  # type: ignore[misc]

    async def until_statement(self, sequence: int) -> None:
        """Wait until every mount shows it."""

        async def shows(name: str) -> bool:
            return (await self.deployment.bundle(name)).sequence == sequence

        for name in AGENTS:
            await eventually(lambda name=name: shows(name), f"statement {sequence} in {name}'s mount")  # type: ignore[misc]

    async def withdrawal(self) -> dict[str, Any]:
        (withdrawal,) = (await ask(self.operator, "/api/v1/withdrawals"))["withdrawals"]
        return dict(withdrawal)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    deployment = AuthorityDeployment.create(tmp_path / "deployment", preset="testing")
    deployment.init()
    async with (
        deployment.running(clock),
        deployment.session(deployment.token("operator")) as operator,
        deployment.session(deployment.token("agent")) as agent,
    ):
        site = Site(deployment, operator, agent)
        await site.until_leaves_of(await site.signing())
        await site.prove()
        yield site


async def test_revocation_passes_its_stages_and_measures_each_agents_time_to_distrust(site: Site) -> None:
    bad = await site.signing()
    status, answer = await site.post("revoke", reason="its key leaked", ca=bad[:8])
    assert status == 200
    assert (answer["ca"], answer["cause"], answer["now"], answer["replacement"]) == (bad, "revocation", False, None)
    assert "the root is in the bundle" in answer["warnings"][0]
    await site.until_statement(2)
    withdrawal = await site.withdrawal()
    assert (withdrawal["stage"], withdrawal["waiting"]) == ("trusting", list(AGENTS))
    assert withdrawal["reason"] == "its key leaked"
    assert withdrawal["who"].startswith("operator from ")

    await site.prove()
    new = withdrawal["replacement"]["sha256"]
    await site.until_leaves_of(new)
    await site.prove("nats-0")
    withdrawal = await site.withdrawal()
    assert (withdrawal["stage"], withdrawal["waiting"]) == ("reissuing", ["app-0"])
    assert withdrawal["until"] == withdrawal["not_after"] - EPOCH
    await site.prove("app-0")
    await site.until_statement(3)

    statement = (await site.deployment.bundle("nats-0")).statement
    assert (statement.cause, statement.withdrawn) == (Cause.REVOCATION, (bad,))
    await site.prove("nats-0")
    withdrawal = await site.withdrawal()
    assert (withdrawal["stage"], withdrawal["waiting"], withdrawal["statement"]) == ("distrusting", ["app-0"], 3)
    took = withdrawal["distrusted"]["nats-0"]
    assert 0 < took["since_statement"] <= took["since_asked"]
    await site.prove("nats-0", "app-0")
    assert (await site.withdrawal())["distrusted"]["nats-0"] == took
    (short,) = (await ask(site.operator, "/api/v1/status"))["withdrawals"]
    assert (short["stage"], short["distrusted"]) == ("done", 2)
    assert short["slowest"] >= took["since_asked"]

    records = [entry.record for entry in await DirectoryJournal(site.deployment.state / "journal").read()]
    (record,) = [record for record in records if isinstance(record, WithdrawalRecord)]
    assert (record.ca, record.reason, record.urgent, record.automatic) == (bad, "its key leaked", False, False)


async def test_urgent_rollback_names_what_breaks_and_needs_one_statement(site: Site) -> None:
    bad = await site.signing()
    status, prospect = await site.post("rollback", reason="nats-0 chokes", now=True, preview=True)
    assert status == 200
    assert prospect["breaks"] == [
        "2 of 2 agents serve a leaf that it signed, which others refuse until it is re-issued: nats-0, app-0",
        "2 of 2 agents have not proven the replacement, and refuse its leaves until they do: nats-0, app-0",
    ]
    assert await ask(site.operator, "/api/v1/withdrawals") == NONE
    status, answer = await site.post("rollback", reason="nats-0 chokes", now=True)
    assert (status, answer) == (200, prospect)
    await site.until_statement(2)
    statement = (await site.deployment.bundle("nats-0")).statement
    assert (statement.cause, statement.withdrawn) == (Cause.ROLLBACK, (bad,))
    await site.until_leaves_of(statement.anchors[0].sha256)
    assert fingerprint(site.deployment.leaf("app-0").chain[0]) == await site.signing()


async def test_override_opens_the_gate_of_a_forced_rotation(site: Site) -> None:
    assert (await site.post("override", reason="impatience"))[0] == 409
    _, made = await site.post("rotate", reason="practice")
    status, answer = await site.post("override", reason="app-0 is being replaced")
    assert (status, answer) == (200, {"ca": made["ca"], "epoch": made["epoch"]})

    async def has_taken_over() -> bool:
        return await site.signing() == str(made["ca"])

    await eventually(has_taken_over, "the new CA to sign")
    records = [entry.record for entry in await DirectoryJournal(site.deployment.state / "journal").read()]
    (record,) = [record for record in records if isinstance(record, OverrideRecord)]
    assert record.reason == "app-0 is being replaced"
    assert record.who.startswith("operator from ")


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("rollback", {}, 400, "rollback: field 'reason': expected a str, found no such field"),
        ("revoke", {"reason": " "}, 400, "revoke: field 'reason': expected why, found nothing"),
        ("override", {"reason": 7}, 400, "override: field 'reason': expected a str, found int"),
        ("rollback", {"reason": "x", "now": "yes"}, 400, "rollback: field 'now': expected a bool, found str"),
        ("rollback", {"reason": "x", "ca": "9" * 65}, 400, "rollback: field 'ca': expected at most 64 characters"),
        ("revoke", {"reason": "x"}, 409, "revocation: expected the CA by its epoch or fingerprint (--ca)"),
        ("revoke", {"reason": "x", "ca": "12", "preview": True}, 409, "revocation: expected a CA that is trusted"),
    ],
)
async def test_request_that_is_not_understood_changes_nothing(
    site: Site, path: str, body: dict[str, Any], status: int, error: str
) -> None:
    found, answer = await site.post(path, **body)
    assert found == status
    assert error in answer["error"]
    assert await ask(site.operator, "/api/v1/withdrawals") == NONE


async def test_only_an_operator_withdraws_a_ca(site: Site) -> None:
    for path in ("rollback", "revoke", "override"):
        async with site.agent.post(f"/api/v1/{path}", json={"reason": "x", "ca": "12"}) as response:
            assert response.status == 403
        async with site.deployment.session() as stranger, stranger.post(f"/api/v1/{path}", json={}) as response:
            assert response.status == 401


async def test_client_with_a_leaf_of_the_withdrawn_ca_is_listed_until_it_disconnects(tmp_path: Path) -> None:
    deployment = AuthorityDeployment.create(tmp_path / "deployment", preset="testing")
    deployment.init()
    async with deployment.running(clock):
        for name in AGENTS:
            await eventually(lambda name=name: has_leaf(deployment, name), f"{name}'s leaf")  # type: ignore[misc]
    files = tmp_path / "files"
    files.mkdir()
    for file, where in (("ca.crt", "bundle"), ("tls.crt", "leaf"), ("tls.key", "leaf")):
        (files / file).symlink_to(deployment.root / "nats-0" / where / file)
    broker = JetStreamBroker(tmp_path / "nats", files)
    broker.start()
    try:
        with deployment.config_file.open("a") as config:
            config.write(f'[withdrawal]\nmonitors = ["{broker.monitor}"]\n')
        leaf = deployment.root / "app-0" / "leaf"
        context = ssl.create_default_context(cafile=str(files / "ca.crt"))
        context.load_cert_chain(leaf / "tls.crt", leaf / "tls.key")
        client = await nats.connect(broker.url.replace("127.0.0.1", "localhost"), tls=context, name="orders")
        async with deployment.running(clock), deployment.session(deployment.token("operator")) as operator:
            body = {"reason": "nats-0 chokes", "now": True}
            async with operator.post("/api/v1/rollback", json=body) as response:
                assert response.status == 200

            async def found() -> Any:
                (withdrawal,) = (await ask(operator, "/api/v1/withdrawals"))["withdrawals"]
                return withdrawal["connected"]

            (connected,) = await eventually(found, "a client that is still connected")
            assert (connected["name"], connected["server"]) == ("orders", broker.monitor)
            (short,) = (await ask(operator, "/api/v1/status"))["withdrawals"]
            assert short["connected"] == 1
            shown = await command("--config", deployment.config_file, "status")
            assert "Still connected with its certificates" in shown.out
            assert "orders" in shown.out
            answer = await ask(operator, "/api/v1/withdrawals")
            assert (answer["connections"]["silent"], answer["connections"]["errors"]) == (0, {})
        await client.close()
    finally:
        broker.stop()


async def has_leaf(deployment: AuthorityDeployment, name: str) -> bool:
    return (deployment.root / name / "leaf" / "tls.key").exists()
