"""The configuration file: what it may say, and that every fault is reported at once, by its key."""

from fractions import Fraction
from pathlib import Path

import pytest

from authority.config.listen import ListenAddress
from authority.config.load import AuthorityConfigError, ExpectedAgentConfig, JetStreamConfig, LeafConfig, load, parse
from authority.config.withdrawal import WithdrawalConfig
from authority.pki.keystore import KeyType
from tidemark.epoch import PRESETS
from tidemark.receipt import PodClass

BASE = Path("/etc/tidemark")

WHOLE = b"""
trust_domain = "playground.tidemark"
state = "state"
preset = "playground"
include_root = false
key_type = "rsa-4096"
[api]
listen = "[::1]:8443"
names = ["authority.example.com", "::1"]
open_reads = false
[[agents]]
name = "nats-0"
class = "required"
[[agents]]
name = "app-0"
class = "application"
[[publish.directory]]
path = "mount/bundle"
[[publish.directory]]
path = "/srv/bundle"
[publish.jetstream]
servers = ["tls://127.0.0.1:4222", "nats://nats.example.com"]
directory = "state/identity"
replicas = 1
[[leaves]]
name = "nats-0"
directory = "mount/leaf"
dns = ["localhost", "*.nats.example.com"]
ip = ["127.0.0.1", "::1"]
"""


def faults(text: str, environment: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(AuthorityConfigError) as caught:
        parse(text.encode(), "authority.toml", BASE, environment or {})
    return caught.value.faults


def test_complete_file() -> None:
    config = parse(WHOLE, "authority.toml", BASE, {"TIDEMARK_KEY_PASSPHRASE": "correct horse"})
    assert config.trust_domain == "playground.tidemark"
    assert config.state == BASE / "state"
    assert config.timing == PRESETS["playground"]
    assert config.include_root is False
    assert config.key_type is KeyType.RSA_4096
    assert config.api.listen == ListenAddress("::1", 8443)
    assert config.api.names == ("authority.example.com", "::1")
    assert not config.api.open_reads
    assert config.agents == (
        ExpectedAgentConfig("nats-0", PodClass.REQUIRED),
        ExpectedAgentConfig("app-0", PodClass.APPLICATION),
    )
    assert config.directories == (BASE / "mount/bundle", Path("/srv/bundle"))
    assert config.jetstream == JetStreamConfig(
        ("tls://127.0.0.1:4222", "nats://nats.example.com"), BASE / "state/identity", 1
    )
    assert config.leaves == (
        LeafConfig("nats-0", BASE / "mount/leaf", ("localhost", "*.nats.example.com"), ("127.0.0.1", "::1")),
    )
    assert config.passphrase == b"correct horse"
    assert "horse" not in repr(config)


def test_smallest_file_is_production_on_loopback() -> None:
    config = parse(b'trust_domain = "bus.example.com"', "authority.toml", BASE, {})
    assert config.timing == PRESETS["production"]
    assert config.api.listen == ListenAddress("127.0.0.1", 0)
    assert config.api.open_reads
    assert config.include_root
    assert config.key_type is KeyType.EC_P256
    assert (config.agents, config.directories, config.jetstream, config.leaves) == ((), (), None, ())
    assert config.passphrase is None
    assert config.withdrawal == WithdrawalConfig(Fraction(1, 3), ())


def test_withdrawal_table_has_the_share_and_the_monitored_servers() -> None:
    text = (
        'trust_domain = "x"\n[withdrawal]\nrollback_above = "{}"\n'
        'monitors = ["http://127.0.0.1:8222", "https://nats"]\n'
    )
    for share, value in (("1/2", Fraction(1, 2)), ("0.25", Fraction(1, 4)), ("0", Fraction(0)), ("1", Fraction(1))):
        config = parse(text.format(share).encode(), "authority.toml", BASE, {})
        assert config.withdrawal == WithdrawalConfig(value, ("http://127.0.0.1:8222", "https://nats"))
    for share in ("1/0", "half", "-1/3", "1.01", "nan"):
        (fault,) = faults(text.format(share))
        assert fault == (
            f"withdrawal.rollback_above: expected a share as text, such as '1/3' ('1': never), found {share!r}"
        )
    for url in ("nats://127.0.0.1:4222", "127.0.0.1", "http://[", "http://"):
        (fault,) = faults(f'trust_domain = "x"\n[withdrawal]\nmonitors = ["{url}"]\n')
        assert fault == f"withdrawal.monitors: expected URLs such as 'http://127.0.0.1:8222', found {url!r}"
    (fault,) = faults('trust_domain = "x"\n[withdrawal]\nmonitors = ["http://ada:secret@nats:8222"]\n')
    assert fault == "withdrawal.monitors: expected URLs without user and password, found one with '@'"


def test_clock_values_replace_those_of_the_preset() -> None:
    text = b'trust_domain = "x"\npreset = "testing"\n[clock]\nepoch_seconds = 3600\nsplay_seconds = 20\n'
    timing = parse(text, "authority.toml", BASE, {}).timing
    assert timing.clock.epoch_seconds == 3600
    assert timing.clock.validity_seconds == 4 * 3600
    assert timing.clock.prepare_seconds == PRESETS["testing"].clock.prepare_seconds
    assert timing.leaf_seconds == 2 * 3600
    assert timing.splay_seconds == 20


@pytest.mark.parametrize(
    ("clock", "names"),
    [
        (
            "validity_seconds = 59\nepoch_seconds = 20\nprepare_seconds = 8",
            ("validity_seconds = 59", "epoch_seconds = 20"),
        ),
        ("leaf_seconds = 43201", ("leaf_seconds = 43201", "validity_seconds = 86400")),
        ("tolerance_seconds = 10801", ("tolerance_seconds = 10801", "epoch_seconds = 21600")),
        ("delivery_seconds = 1800", ("prepare_seconds = 1800", "delivery_seconds = 1800")),
    ],
)
def test_impossible_clock_is_refused_with_both_values(clock: str, names: tuple[str, str]) -> None:
    (fault,) = faults(f'trust_domain = "x"\n[clock]\n{clock}\n')
    assert fault.startswith("clock: ")
    for name in names:
        assert name in fault


def test_every_fault_is_reported_at_once_with_its_key() -> None:
    found = faults(
        """
        trust_domain = "no spaces"
        preset = "weekly"
        include_root = "yes"
        key_type = "dsa"
        colour = "green"
        [clock]
        epoch_seconds = "20"
        [api]
        listen = "8443"
        names = ["a b"]
        [[agents]]
        class = "optional"
        [[agents]]
        name = "twin"
        [[agents]]
        name = "twin"
        klass = "required"
        [publish]
        directory = ["mount"]
        [publish.jetstream]
        servers = ["http://127.0.0.1", "tls://[::1"]
        replicas = 6
        [[leaves]]
        name = "nats-0"
        directory = "leaf"
        ip = ["localhost"]
        dns = ["127.0.0.1"]
        [[leaves]]
        name = "nats-1"
        directory = "leaf"
        """
    )
    expected = [
        ("trust_domain", "expected 1 to 64 letters"),
        ("preset", "expected one of playground, testing, production, found 'weekly'"),
        ("include_root", "expected true or false, found 'yes'"),
        ("key_type", "expected one of ec-p256, rsa-4096, found 'dsa'"),
        ("colour", "unknown"),
        ("clock.epoch_seconds", "expected a whole number, found '20'"),
        ("api.listen", "found '8443'"),
        ("api.names", "found 'a b'"),
        ("agents[0].name", "found no such key"),
        ("agents[0].class", "expected one of required, application, found 'optional'"),
        ("agents[2].klass", "unknown; expected one of class, name"),
        ("agents: name", "'twin' more than once"),
        ("publish.directory", "expected tables ([[publish.directory]])"),
        ("publish.jetstream.servers", "found 'http://127.0.0.1'"),
        ("publish.jetstream.servers", "found 'tls://[::1'"),
        ("publish.jetstream.replicas", "expected 1 to 5, found 6"),
        ("leaves[0].ip", "found 'localhost'"),
        ("leaves[0].dns", "found '127.0.0.1'"),
        ("leaves[1].dns", "found neither"),
        ("leaves: directory", "leaf' more than once"),
    ]
    for key, part in expected:
        assert any(fault.startswith(f"{key}: ") and part in fault for fault in found), (key, part, found)
    assert len(found) == len(expected)


def test_user_in_a_server_url_is_refused_and_not_printed() -> None:
    (fault,) = faults('trust_domain = "x"\n[publish.jetstream]\nservers = ["http://joe:sesame@127.0.0.1"]\n')
    assert fault.startswith("publish.jetstream.servers: ")
    assert "sesame" not in fault


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "trust_domain: expected text, found no such key"),
        ('trust_domain = ""', "trust_domain: expected 1 to 4096 characters, found 0"),
        ("trust_domain = 7", "trust_domain: expected text, found 7"),
        ("trust_domain = ", "expected TOML in UTF-8, found "),
        ('trust_domain = "x"\nagents = 3', "agents: expected a list, found 3"),
        ('trust_domain = "x"\napi = 3', "api: expected a table, found 3"),
        ('trust_domain = "x"\n[api]\nnames = [3]', "api.names: expected a list of texts, found [3]"),
        ('trust_domain = "x"\n[api]\nnames = []', "api.names: expected 1 or more, found 0"),
        (
            'trust_domain = "x"\n[[leaves]]\nname = "a\\nb"\ndirectory = "l"\ndns = ["a"]',
            "leaves[0].name: expected characters that print, found 'a\\nb'",
        ),
        (
            'trust_domain = "x"\n[[leaves]]\nname = "a"\ndirectory = "l"\ndns = ["Tidemark-Authority"]',
            "leaves[0].dns: expected other names than the authority's own, found 'tidemark-authority'",
        ),
        ('trust_domain = "x"\n[clock]\nepoch_seconds = true', "clock.epoch_seconds: expected a whole number"),
    ],
)
def test_one_fault_is_one_sentence(text: str, part: str) -> None:
    (fault,) = faults(text)
    assert part in fault


def test_missing_configuration_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        AuthorityConfigError, match=r"authority\.toml: expected a readable TOML file, found No such file"
    ):
        load(tmp_path / "authority.toml", {})


def test_relative_paths_start_at_the_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "authority.toml").write_bytes(WHOLE)
    config = load(tmp_path / "authority.toml", {})
    assert config.state == tmp_path / "state"
    assert config.directories[0] == tmp_path / "mount/bundle"
