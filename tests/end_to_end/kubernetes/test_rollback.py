"""A CA that workloads do not take is rolled back unasked: real authority, real agent, real receipts."""

from pathlib import Path
from typing import Any

from tests.harness.authority.deployment import AuthorityDeployment, Program, ask
from tests.harness.kubernetes.apiserver import ApiServer
from tests.harness.kubernetes.node import AgentsPod, FakeNode
from tests.harness.waiting import eventually


async def test_reverted_statement_is_rolled_back_automatically(
    server: ApiServer, deployment: AuthorityDeployment, tmp_path: Path
) -> None:
    config = deployment.config_file  # epochs that are long: nothing is due meanwhile
    config.write_text(config.read_text().replace('preset = "testing"', 'preset = "production"'))
    node = FakeNode(server, tmp_path / "node")
    async with Program(deployment) as program, node.running():
        await program.start()
        pod = AgentsPod(node, "nats", "nats-0")
        async with pod.running(deployment.url), deployment.session(deployment.token("operator")) as session:

            async def proven() -> int | None:
                """The newest statement, once the agent has proven it."""
                for agent in (await ask(session, "/api/v1/fleet"))["agents"]:
                    if agent["state"] == "proven":
                        return int(agent["receipt"]["proven"]["sequence"])
                return None

            async def withdrawal() -> dict[str, Any] | None:
                return next(iter((await ask(session, "/api/v1/withdrawals"))["withdrawals"]), None)

            async def is_over() -> bool:
                return bool(await proven() == first + 2)

            first = await eventually(proven, "the first proof")
            good = (await ask(session, "/api/v1/status"))["signing"]["sha256"]
            pod.refused = first + 1
            async with session.post("/api/v1/rotate", json={"reason": "a test"}) as response:
                assert response.status == 200, await response.text()
                bad = (await response.json())["ca"]
            found = await eventually(withdrawal, "a rollback that nobody asked for")
            assert (found["ca"], found["cause"], found["automatic"], found["who"]) == (bad, "rollback", True, "")
            assert found["reason"] == f"1 of 1 required agents have put statement {first + 1} back"
            await eventually(is_over, "a proof of the statement without the CA")
            found = await withdrawal()
            assert found is not None
            assert (found["stage"], found["statement"]) == ("done", first + 2)
            assert list(found["distrusted"]) == ["nats/nats-0"]
            assert (await ask(session, "/api/v1/status"))["signing"]["sha256"] == good
        told = [one["sequence"] for one in pod.told]
        assert first + 1 in told
        assert first in told[told.index(first + 1) :], "the set before was put back"
    assert "HTTP Request" not in program.log.read_text()
