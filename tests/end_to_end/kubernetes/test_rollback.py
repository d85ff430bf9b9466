"""A CA that a workload refuses is rolled back automatically, with a real authority, agent and receipts."""

from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from tests.harness.authority.deployment import AuthorityDeployment, Program, ask
from tests.harness.kubernetes.apiserver import ApiServer
from tests.harness.kubernetes.node import AgentsPod, FakeNode
from tests.harness.waiting import eventually


async def proven(session: aiohttp.ClientSession) -> int | None:
    """The sequence that the agent has proven; None while it has proven nothing."""
    for agent in (await ask(session, "/api/v1/fleet"))["agents"]:
        if agent["state"] == "proven":
            return int(agent["receipt"]["proven"]["sequence"])
    return None


async def withdrawal(session: aiohttp.ClientSession) -> dict[str, Any] | None:
    """The newest withdrawal; None where there is none."""
    return next(iter((await ask(session, "/api/v1/withdrawals"))["withdrawals"]), None)


async def test_reverted_statement_is_rolled_back_automatically(
    server: ApiServer, deployment: AuthorityDeployment, tmp_path: Path
) -> None:
    config = deployment.config_file  # long epochs: no other step is due meanwhile
    config.write_text(config.read_text().replace('preset = "testing"', 'preset = "production"'))
    node = FakeNode(server, tmp_path / "node")
    async with Program(deployment) as program, node.running():
        await program.start()
        pod = AgentsPod(node, "nats", "nats-0")
        async with pod.running(deployment.url), deployment.session(deployment.token("operator")) as session:
            first = await eventually(partial(proven, session), "the first proof")
            good = (await ask(session, "/api/v1/status"))["signing"]["sha256"]
            pod.refused = first + 1
            async with session.post("/api/v1/rotate", json={"reason": "a test"}) as response:
                assert response.status == 200, await response.text()
                bad = (await response.json())["ca"]
            found = await eventually(partial(withdrawal, session), "an automatic rollback")
            assert (found["ca"], found["cause"], found["automatic"], found["who"]) == (bad, "rollback", True, "")
            assert found["reason"] == f"1 of 1 required agents have put statement {first + 1} back"

            async def is_over() -> bool:
                return bool(await proven(session) == first + 2)

            await eventually(is_over, "a proof of the statement without the CA")
            over = await withdrawal(session)
            assert over is not None
            assert (over["stage"], over["statement"]) == ("done", first + 2)
            assert list(over["distrusted"]) == ["nats/nats-0"]
            assert (await ask(session, "/api/v1/status"))["signing"]["sha256"] == good
        reloads = [one["sequence"] for one in pod.reloads]
        assert first + 1 in reloads
        assert first in reloads[reloads.index(first + 1) :], "the agent installed the set before again"
    assert "HTTP Request" not in program.log.read_text()
