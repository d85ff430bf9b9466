"""What check-config warns of: each by its key, and nothing where there is nothing to say."""

from pathlib import Path

import pytest

from authority.config.load import ENCRYPTION_VARIABLE, parse
from authority.config.warnings import warnings
from tests.harness.authority.deployment import AuthorityDeployment, command

QUIET = """
trust_domain = "bus.example.com"
include_root = false
[api]
listen = "10.0.0.7:8443"
names = ["authority.example.com"]
open_reads = false
[[agents]]
name = "nats-0"
[[publish.directory]]
path = "bundle"
[[leaves]]
name = "nats-0"
directory = "leaf"
dns = ["nats-0"]
"""
OPENBAO = 'issuer = "openbao"\n[openbao]\nurl = "https://bao.example.com:8200"\nrole_id = "us"\n'
JETSTREAM = '[publish.jetstream]\nservers = ["tls://nats-0:4222"]\nreplicas = 2\n'
KUBERNETES = '[kubernetes]\nkubeconfig = "kubeconfig"\n'
SLOW = "[clock]\nepoch_seconds = 1200\nprepare_seconds = 300\ntolerance_seconds = 600\nleaf_seconds = 1500\n"


def warned(text: str, words: str = "correct horse") -> list[str]:
    return warnings(parse(text.encode(), "authority.toml", Path(), {ENCRYPTION_VARIABLE: words}))


def keys(found: list[str]) -> list[str]:
    return [warning.partition(":")[0] for warning in found]


def test_careful_configuration_has_no_warnings() -> None:
    assert warned(QUIET) == []


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (QUIET.replace("include_root = false", ""), "include_root", "go on trusting a revoked CA until it expires"),
        (QUIET.replace("open_reads = false", ""), "api.open_reads", "on 10.0.0.7:8443 anyone who reaches it"),
        (QUIET.replace('"authority.example.com"', '"localhost"'), "api.names", "cannot verify the API on 10.0.0.7"),
        (QUIET.replace("8443", "0"), "api.listen", "another port at every start"),
        (QUIET.replace('[[agents]]\nname = "nats-0"', ""), "agents", "an empty fleet keeps every gate closed"),
        (QUIET.replace("[[publish", 'class = "application"\n[[publish'), "agents", "none is of class 'required'"),
        (QUIET.replace('[[publish.directory]]\npath = "bundle"', ""), "publish", "no agent gets them"),
        (QUIET + JETSTREAM, "publish.jetstream.replicas", "2 survive no more servers than 1 do"),
        (QUIET.replace("[api]", f"{SLOW}[api]"), "clock.leaf_seconds", "60 s are left to repair"),
        (f'preset = "testing"\n{QUIET}'.replace("[api]", f"{OPENBAO}[api]"), "clock.validity_seconds", "3600 s"),
        (f'preset = "playground"\n{QUIET}{KUBERNETES}', "clock.prepare_seconds", "as late as 95 s after the CA"),
        (f'preset = "playground"\nkey_type = "rsa-4096"\n{QUIET}', "key_type", "of the 8 s in which"),
    ],
)  # fmt: skip
def test_risky_setting_is_warned_of_by_its_key(text: str, key: str, says: str) -> None:
    found = warned(text)
    assert keys(found) == [key]
    assert says in found[0]


def test_unencrypted_keys_are_warned_of_unless_openbao_keeps_them() -> None:
    assert keys(warned(QUIET, words="")) == [ENCRYPTION_VARIABLE]
    assert warned(QUIET.replace("[api]", f"{OPENBAO}[api]"), words="") == []


def test_kubernetes_configuration_needs_no_agents_and_no_targets() -> None:
    text = QUIET.replace('[[agents]]\nname = "nats-0"', "").replace('[[publish.directory]]\npath = "bundle"', "")
    assert keys(warned(text)) == ["agents", "publish"]
    assert warned(f'{text}{KUBERNETES}fleet = ["nats"]') == []
    assert warned(f'preset = "playground"\n{text}{KUBERNETES}fleet = ["nats"]\nnudge = true') == []


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:8443", "localhost:8443"])
def test_loopback_api_may_have_open_reads(listen: str) -> None:
    text = QUIET.replace("10.0.0.7:8443", listen).replace("open_reads = false", "open_reads = true")
    assert warned(text.replace("authority.example.com", "localhost")) == []


async def test_check_config_prints_warnings_and_succeeds(tmp_path: Path) -> None:
    deployment = AuthorityDeployment.create(tmp_path / "deployment", preset="playground")
    found = await command("--config", deployment.config_file, "check-config")
    assert found.status == 0
    assert found.out.startswith("good: ")
    assert [line.split(":")[:2] for line in found.err.splitlines()] == [
        ["warning", " include_root"],
        ["warning", f" {ENCRYPTION_VARIABLE}"],
    ]
