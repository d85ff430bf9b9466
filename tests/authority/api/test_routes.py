"""The API of a whole authority in this process, over real HTTPS: status, bundles, metrics."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from authority.web.listener import ListenError
from tests.harness.authority.api_calls import EPOCH, clock, mark, refusal, send
from tests.harness.authority.deployment import AGENTS, AuthorityDeployment, answers, ask, receipt
from tests.harness.waiting import eventually
from tidemark.certificates import not_after


async def test_first_start_publishes_a_bundle_and_leaves(
    deployment: AuthorityDeployment, reader: aiohttp.ClientSession
) -> None:
    for path in ("/livez", "/readyz"):
        assert await answers(reader, path)
    status = await ask(reader, "/api/v1/status")
    bundle = await deployment.bundle("nats-0")
    started = int(clock()) // EPOCH * EPOCH
    assert status["trust_domain"] == "bus.example.com"
    assert status["epoch"] == {
        "number": started // EPOCH,
        "started": started,
        "ends": started + EPOCH,
        "prepare_at": started + EPOCH - 300,
    }
    assert status["signing"]["sha256"] == bundle.statement.anchors[0].sha256
    assert status["signing"]["not_after"] == started + 4 * EPOCH
    assert status["newest"]["sequence"] == 1
    assert status["newest"]["digest"] == bundle.digest
    assert status["gate"] == {"state": "idle", "waiting": []}
    assert status["fleet"]["missing"] == 2
    assert [event["number"] for event in status["events"]] == list(range(1, len(status["events"]) + 1))
    assert {"prepared", "activated"} <= {event["event"] for event in status["events"]}
    assert status["failures"] == []


async def test_status_shows_leaves_and_publishers(
    deployment: AuthorityDeployment, reader: aiohttp.ClientSession
) -> None:
    async def written() -> Any:
        status = await ask(reader, "/api/v1/status")
        return status if all(leaf["not_after"] for leaf in status["leaves"]) else None

    status = await eventually(written, "both leaves")
    assert [leaf["name"] for leaf in status["leaves"]] == list(AGENTS)
    for leaf in status["leaves"]:
        assert leaf["not_after"] == not_after(deployment.leaf(leaf["name"]).certificate)
        assert leaf["issuer_epoch"] == status["epoch"]["number"]
        assert leaf["target"] == str(deployment.root / leaf["name"] / "leaf")
        assert leaf["error"] == ""
    (publisher,) = status["publishers"]
    assert (publisher["name"], publisher["sequence"], publisher["error"]) == ("directory", 1, "")
    assert publisher["outcome"] in {"written", "unchanged"}


async def test_unreadable_journal_is_in_the_status_until_it_is_readable(
    deployment: AuthorityDeployment, reader: aiohttp.ClientSession
) -> None:
    (deployment.state / "journal").rename(deployment.state / "away")

    async def failures() -> Any:
        return (await ask(reader, "/api/v1/status"))["failures"]

    async with deployment.session(deployment.token("agent")) as agent:  # a receipt has the sequencer look again
        await send(agent, receipt("nats-0", mark(await deployment.bundle("nats-0")), None, 1).to_json())
    (failure,) = await eventually(failures, "the failure in the status")
    assert failure["step"] == "journal"
    assert "No such file or directory" in failure["error"]
    (deployment.state / "away").rename(deployment.state / "journal")

    async def mended() -> bool:
        return not await failures()

    await eventually(mended, "the journal to be read again")


async def test_bundle_is_found_by_its_sequence(deployment: AuthorityDeployment, reader: aiohttp.ClientSession) -> None:
    bundle = await deployment.bundle("nats-0")
    async with reader.get("/api/v1/bundles/1") as response:
        assert await response.read() == bundle.bundle.to_json()
    assert await refusal(reader, "GET", "/api/v1/bundles/2") == (
        404,
        "bundle 2: expected one that the journal holds, found none",
    )


async def test_unknown_paths_and_methods_are_answered_in_json(reader: aiohttp.ClientSession) -> None:
    assert await refusal(reader, "GET", "/api/v1/nothing") == (404, "GET /api/v1/nothing: not found")
    async with reader.get("/api/v1/rotate") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"


async def test_metrics_have_the_documented_names(reader: aiohttp.ClientSession) -> None:
    async with reader.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        text = await response.text()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    epoch = int(clock()) // EPOCH
    for name, value in {
        'ca_rotation_attempts_total{outcome="prepared"}': 1,
        'ca_rotation_attempts_total{outcome="activated"}': 1,
        "ca_rotation_generation_duration_seconds_count": 1,
        "ca_rotation_orchestration_duration_seconds_count": 0,
        "ca_rotation_current_epoch": epoch,
        "ca_rotation_current_sequence": 1,
        "ca_rotation_active_epoch": epoch,
        'ca_rotation_publish_total{outcome="written",target="directory"}': 1,
        'ca_rotation_publish_duration_seconds_count{target="directory"}': 1,
        'ca_rotation_fleet_agents{state="missing"}': 2,
        'ca_rotation_fleet_required_agents{state="missing"}': 1,
        "ca_rotation_epoch_seconds": EPOCH,
        "ca_rotation_gate_held": 0,
        "ca_rotation_signing_ca_expiry_timestamp_seconds": (epoch + 4) * EPOCH,
    }.items():
        assert float(values[name]) == value, name
    assert 0 <= clock() - float(values["ca_rotation_last_success_timestamp_seconds"]) < 60
    assert "_created" not in text


async def test_taken_port_is_an_error_that_names_the_port(deployment: AuthorityDeployment, tmp_path: Path) -> None:
    port = deployment.url.rpartition(":")[2]
    other = AuthorityDeployment.create(tmp_path / "other", preset="testing")
    text = other.config_file.read_text().replace("[api]", f'[api]\nlisten = "127.0.0.1:{port}"')
    other.config_file.write_text(text)
    other.init()
    with pytest.raises(ListenError, match=rf"api\.listen: expected to listen on 127\.0\.0\.1:{port}, found .*in use"):
        async with other.running(clock):
            pass
