"""The real program: every command as a process, and an authority that runs, is killed and goes on."""

import json
import signal
import stat
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from authority.journal.directory import DirectoryJournal
from authority.journal.record_types import ActivationRecord, StatementRecord
from tests.harness.authority.deployment import AGENTS, AuthorityDeployment, Program, ask, command
from tests.harness.authority.receipt_fleet import Fleet
from tests.harness.waiting import eventually
from tidemark.bundle import Statement, digest_of
from tidemark.certificates import not_after
from tidemark.note import parse
from tidemark.trust import Trust

SWIFT = """
[clock]
epoch_seconds = 8
validity_seconds = 32
prepare_seconds = 7
tolerance_seconds = 1
delivery_seconds = 1
"""


@pytest.fixture
def deployment(tmp_path: Path) -> AuthorityDeployment:
    return AuthorityDeployment.create(tmp_path / "deployment", preset="playground")


def files(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Contents and modes of everything in a directory."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in directory.rglob("*")
        if path.is_file()
    }


async def test_init_makes_every_secret_once(deployment: AuthorityDeployment) -> None:
    made = await command("--config", deployment.config_file, "init")
    assert made.status == 0
    assert [line.split()[0] for line in made.out.splitlines()] == ["made"] * 5
    before = files(deployment.state)
    assert set(before) == {
        "roots/1/ca.crt",
        "roots/1/ca.key",
        "control/ca/ca.crt",
        "control/ca/ca.key",
        "signer/a.key",
        "tokens/agent",
        "tokens/operator",
    }
    assert {mode for _, mode in before.values()} == {0o600}
    assert stat.S_IMODE(deployment.state.stat().st_mode) == 0o700
    again = await command("--config", deployment.config_file, "init")
    assert again.status == 0
    assert [line.split()[0] for line in again.out.splitlines()] == ["kept"] * 5
    assert files(deployment.state) == before


async def test_init_makes_what_is_missing(deployment: AuthorityDeployment) -> None:
    deployment.init()
    before = files(deployment.state)
    (deployment.state / "tokens" / "agent").unlink()
    again = await command("--config", deployment.config_file, "init")
    assert [line.split()[0] for line in again.out.splitlines()] == ["kept", "kept", "kept", "made", "kept"]
    after = files(deployment.state)
    assert after.pop("tokens/agent") != before.pop("tokens/agent")
    assert after == before


async def test_init_refuses_the_state_of_another_trust_domain(deployment: AuthorityDeployment) -> None:
    deployment.init()
    text = deployment.config_file.read_text().replace("bus.example.com", "other.example.com")
    deployment.config_file.write_text(text)
    refused = await command("--config", deployment.config_file, "init")
    assert refused.status == 3
    assert "expected the state of trust domain 'other.example.com', found that of 'bus.example.com'" in refused.err


async def test_run_without_init_says_to_run_init(deployment: AuthorityDeployment) -> None:
    refused = await command("--config", deployment.config_file, "run")
    assert refused.status == 3
    assert refused.err == (f"{deployment.state}/control/ca: expected the control CA, found none; run 'init' first\n")


async def test_check_config_reports_the_summary_or_every_fault(deployment: AuthorityDeployment) -> None:
    good = await command("--config", deployment.config_file, "check-config")
    assert good.status == 0
    assert good.out.startswith("good: trust domain bus.example.com; epochs of 20 s, CAs valid 80 s")
    with deployment.config_file.open("a") as file:
        file.write('colour = "green"\n[[agents]]\nclass = "optional"\n')
    bad = await command("check-config", environment={"TIDEMARK_AUTHORITY_CONFIG": str(deployment.config_file)})
    assert bad.status == 2
    assert bad.out == ""
    assert [line.partition(":")[0] for line in bad.err.splitlines()] == [
        "agents[2].name",
        "agents[2].class",
        "leaves[1].colour",
    ]


async def test_command_without_a_configuration_is_refused() -> None:
    found = await command("run")
    assert found.status == 2
    assert found.err == (
        "--config: expected the configuration file here or in TIDEMARK_AUTHORITY_CONFIG, found neither\n"
    )


async def test_printed_trust_file_is_readable_by_agents(deployment: AuthorityDeployment) -> None:
    deployment.init()
    printed = await command("--config", deployment.config_file, "trust")
    assert printed.status == 0
    assert Trust.parse(printed.out.encode()) == await deployment.trust()


async def test_forgotten_or_wrong_passphrase_is_refused_and_not_printed(deployment: AuthorityDeployment) -> None:
    environment = {"TIDEMARK_KEY_PASSPHRASE": "correct horse"}
    assert (await command("--config", deployment.config_file, "init", environment=environment)).status == 0
    assert (await command("--config", deployment.config_file, "trust", environment=environment)).status == 0
    forgotten = await command("--config", deployment.config_file, "trust")
    assert forgotten.status == 3
    assert "expected a key that is not encrypted, found an encrypted key, and no passphrase to open it" in forgotten.err
    wrong = await command(
        "--config", deployment.config_file, "run", environment={"TIDEMARK_KEY_PASSPHRASE": "wrong pony"}
    )
    assert wrong.status == 3
    assert "expected a private key in PEM that the passphrase given opens, found none" in wrong.err
    assert "pony" not in wrong.err


async def test_help_names_every_exit_status() -> None:
    shown = await command("--help")
    assert shown.status == 0
    for words in ("0  done", "1  no:", "2  the arguments", "3  the state cannot be used", "4  the API gives no answer"):
        assert words in shown.out


async def test_api_commands_without_a_running_authority_exit_with_status_4(deployment: AuthorityDeployment) -> None:
    deployment.init()
    for words in (["status"], ["rotate", "--reason", "none"]):
        found = await command("--config", deployment.config_file, *words)
        assert found.status == 4
        assert "expected the address of a running authority, found no such file" in found.err
    found = await command("--config", deployment.config_file, "status", "--url", "https://127.0.0.1:1")
    assert found.status == 4
    assert found.err.startswith("https://127.0.0.1:1/api/v1/status: expected an answer of the authority, found ")


async def test_status_and_rotate_against_a_running_authority(deployment: AuthorityDeployment, tmp_path: Path) -> None:
    deployment.init()
    config = ["--config", str(deployment.config_file)]
    async with Program(deployment, {"TIDEMARK_LOG": "json"}) as program:
        await program.start()
        tables = await command(*config, "status")
        assert tables.status == 0
        for words in ("trust domain", "CA of epoch", "2 missing", "nats-0", "directory", "prepared", "bootstrap"):
            assert words in tables.out
        answer = await command(*config, "status", "--json")
        before = json.loads(answer.out)["newest"]["sequence"]
        rotated = await command(*config, "rotate", "--reason", "a drill")
        assert rotated.status == 0
        assert json.loads(rotated.out)["sequence"] > before

        # From anywhere else: the URL, the control CA and a token, and no configuration.
        ca = tmp_path / "control.pem"
        ca.write_text((await deployment.trust()).control_ca or "")
        away = ["--url", deployment.url, "--control-ca", str(ca)]
        assert (await command("status", "--json", *away)).status == 0
        token = ["--token-file", str(deployment.state / "tokens" / "agent")]
        refused = await command("rotate", "--reason", "mischief", *away, *token)
        assert refused.status == 1
        assert refused.err == "/api/v1/rotate: expected the token of an operator, found that of agent\n"
        ca.write_bytes((await deployment.bundle("nats-0")).bundle.ca)
        stranger = await command("status", *away)
        assert stranger.status == 4
        assert "CERTIFICATE_VERIFY_FAILED" in stranger.err

        assert await program.signal(signal.SIGTERM) == 0
    lines = [json.loads(line) for line in program.log.read_text().splitlines()]
    assert lines[-1]["event"] == "stopped"
    assert {"prepared", "activated", "published", "leaf_written"} <= {line["event"] for line in lines}
    (forced,) = [line for line in lines if line.get("cause") == "forced" and line["event"] == "prepared"]
    assert forced["level"] == "INFO"
    log = program.log.read_text()
    assert "PRIVATE" not in log
    assert deployment.token("operator") not in log


async def test_verify_prints_the_verdict_on_each_bundle(deployment: AuthorityDeployment, tmp_path: Path) -> None:
    deployment.init()
    async with deployment.running():
        bundle = (await deployment.bundle("nats-0")).bundle
    trust, mount, travelling = tmp_path / "trust.toml", deployment.root / "nats-0/bundle", tmp_path / "bundle.json"
    trust.write_text((await deployment.trust()).dump())
    travelling.write_bytes(bundle.to_json())
    good = await command("verify", "--trust", trust, mount, travelling, mount / "ca.crt")
    assert good.status == 0
    assert good.out.count(": good\n") == 2
    assert f"{travelling}: good" in good.out
    assert "of bus.example.com, epoch" in good.out
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "ca.crt").write_bytes(bundle.ca[:-40])
    (bad / "bundle.note").write_bytes(bundle.note)
    found = await command("--config", deployment.config_file, "verify", bad, mount)
    assert found.status == 1
    assert f"{bad}: bundle rejected at step 5 (digest): expected ca.crt with SHA-256" in found.out
    assert f"{mount}: good" in found.out
    missing = await command("verify", "--trust", trust, tmp_path / "nowhere")
    assert missing.status == 2
    assert missing.err == f"{tmp_path}/ca.crt: expected a readable file, found No such file or directory\n"


async def test_absent_broker_does_not_hold_up_other_publishers(tmp_path: Path) -> None:
    more = '[publish.jetstream]\nservers = ["tls://127.0.0.1:1"]\ndirectory = "state/nats"\n'
    deployment = AuthorityDeployment.create(tmp_path / "deployment", preset="playground", more=more)
    deployment.init()
    async with Program(deployment) as program:
        await program.start()
        async with deployment.session() as session:
            ca = (await ask(session, "/api/v1/status"))["signing"]["sha256"]
            for name in AGENTS:
                await eventually(partial(deployment.has_leaf_of, name, ca), "a leaf in the mount")

            async def complains() -> Any:
                publishers = (await ask(session, "/api/v1/status"))["publishers"]
                errors = {publisher["name"]: publisher["error"] for publisher in publishers}
                return "Connect call failed" in errors.get("jetstream", "") and not errors["directory"]

            await eventually(complains, "the broker's absence in the status")
        # Its own identity for the broker: bundle and leaf in one directory.
        own = {path.name for path in (deployment.state / "nats").iterdir() if not path.name.startswith("..")}
        assert own == {"ca.crt", "bundle.note", "tls.crt", "tls.key"}
        assert await program.signal(signal.SIGINT) == 0


async def test_killed_authority_continues_from_its_journal(tmp_path: Path) -> None:
    """Two rotations with a real clock, the program killed in between at every stage that its mounts show."""
    deployment = AuthorityDeployment.create(tmp_path / "deployment", preset="playground", more=SWIFT)
    deployment.init()
    fleet = Fleet(deployment)
    async with Program(deployment) as program:
        await program.start()
        first = await deployment.bundle("nats-0")

        async def rotated(last: str) -> Any:
            await fleet.report()
            async with deployment.session() as session:
                signing = (await ask(session, "/api/v1/status"))["signing"]
            return signing if signing and signing["sha256"] != last else None

        async def prepared(after: int) -> Any:
            bundle = await deployment.bundle("nats-0")
            return bundle if bundle.sequence > after else None

        for _ in range(2):
            before = await deployment.bundle("nats-0")
            assert await program.signal(signal.SIGKILL) == -signal.SIGKILL
            await program.start()
            async with deployment.session() as session:
                signing = (await ask(session, "/api/v1/status"))["signing"]
            await eventually(partial(prepared, before.sequence), "the next CA")
            assert await program.signal(signal.SIGKILL) == -signal.SIGKILL
            await program.start()
            now = await eventually(partial(rotated, signing["sha256"]), "its activation")
            for name in AGENTS:
                await eventually(partial(deployment.has_leaf_of, name, now["sha256"]), "its leaf")
                assert not_after(deployment.leaf(name).certificate) <= now["not_after"]
        last = await deployment.bundle("nats-0")
        assert await program.signal(signal.SIGTERM) == 0
    assert last.sequence >= first.sequence + 2
    await check_journal(deployment, fleet)


async def check_journal(deployment: AuthorityDeployment, fleet: Fleet) -> None:
    """Sequences rise one by one, and every statement that anybody saw is the journal's; no CA is left over."""
    entries = await DirectoryJournal(deployment.state / "journal").read()
    records = [entry.record for entry in entries]
    statements = [record for record in records if isinstance(record, StatementRecord)]
    texts = [parse(record.bundle.note).text for record in statements]
    digests = {Statement.parse(text).sequence: digest_of(text) for text in texts}
    assert list(digests) == list(range(min(digests), min(digests) + len(statements)))
    assert fleet.statements.items() <= digests.items()
    assert any(isinstance(record, ActivationRecord) for record in records)
    kept = {path.name for path in (deployment.state / "issuer").iterdir()}
    assert kept <= {record.ca_id for record in statements}
