"""The environment: what is read, and how faults are named."""

from pathlib import Path
from signal import SIGHUP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import AgentConfigError, read_config
from agent.log import Style
from agent.workloads.targets import Address, HttpTarget, SignalTarget
from tidemark.receipt import PodClass

LEAST = {
    "TIDEMARK_BUNDLE": "/etc/tidemark/bundle",
    "TIDEMARK_TRUST": "/etc/tidemark/trust/trust.toml",
    "TIDEMARK_OUT": "/run/tidemark",
    "TIDEMARK_POD": "nats-0",
}
NATS = "signal:?process=nats-server&signal=HUP&monitor=http://127.0.0.1:8222&nats=127.0.0.1:4222&tls=127.0.0.1:6222"


def faults(**changes: str) -> list[str]:
    with pytest.raises(AgentConfigError) as caught:
        read_config(LEAST | {f"TIDEMARK_{name}": value for name, value in changes.items()})
    return caught.value.faults


def test_minimal_environment_has_defaults() -> None:
    config = read_config(LEAST | {"PATH": "/bin", "HOME": "/"})
    assert (config.leaf, config.targets, config.authority_url, config.token_file) == (None, (), None, None)
    assert (config.pod, config.uid, config.pod_class) == ("nats-0", "nats-0", PodClass.REQUIRED)
    assert (str(config.listen), config.splay, config.log) == ("0.0.0.0:9465", 0.0, Style.TEXT)


def test_every_variable_is_read() -> None:
    config = read_config(
        LEAST
        | {
            "TIDEMARK_LEAF": "/etc/tidemark/leaf",
            "TIDEMARK_TARGETS": f" {NATS}  http://127.0.0.1:9000/-/reload ",
            "TIDEMARK_POD_UID": "1b4e28ba",
            "TIDEMARK_CLASS": "application",
            "TIDEMARK_AUTHORITY_URL": "https://authority:8443/",
            "TIDEMARK_AUTHORITY_TOKEN_FILE": "/var/run/token",
            "TIDEMARK_NATS_URL": "tls://nats-0:4222, nats://nats-1",
            "TIDEMARK_NATS_CREDS_FILE": "/var/run/agent.creds",
            "TIDEMARK_LISTEN": "[::1]:9000",
            "TIDEMARK_SPLAY": "2.5",
            "TIDEMARK_LOG": "json",
        }
    )
    assert config.leaf == Path("/etc/tidemark/leaf")
    assert config.authority_url == "https://authority:8443"
    assert config.nats_servers == ("tls://nats-0:4222", "nats://nats-1")
    assert config.nats_creds == Path("/var/run/agent.creds")
    assert (config.uid, config.pod_class, config.splay, config.log) == (
        "1b4e28ba",
        PodClass.APPLICATION,
        2.5,
        Style.JSON,
    )
    assert config.listen == Address("::1", 9000)
    nats, http = config.targets
    assert nats == SignalTarget(
        url=NATS,
        process="nats-server",
        pidfile=None,
        signal=SIGHUP,
        monitor="http://127.0.0.1:8222",
        nats=(Address("127.0.0.1", 4222),),
        tls=(Address("127.0.0.1", 6222),),
    )
    assert http == HttpTarget("http://127.0.0.1:9000/-/reload")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("BUNDLE", "", "expected the directory of the mounted bundle, an absolute path, found nothing"),
        ("OUT", "run", "expected the output directory, an absolute path, found run"),
        ("OUT", "/etc/tidemark/bundle", "expected another directory than TIDEMARK_BUNDLE"),
        ("LEAF", "leaf", "expected the directory of the mounted leaf, an absolute path, found leaf"),
        ("POD", "", "expected a name of 1 to 253 characters, found nothing"),
        ("POD_UID", "u" * 65, "expected a name of 1 to 64 characters"),
        ("CLASS", "important", "expected required or application, found 'important'"),
        ("AUTHORITY_URL", "http://authority:8443", "expected https://host:port, found 'http://authority:8443'"),
        ("AUTHORITY_URL", "https://user:word@authority", "expected https://host:port"),
        ("AUTHORITY_URL", "https://authority:8443/api", "expected https://host:port"),
        ("NATS_URL", "http://nats:4222", "handshake_first=true, found 'http://nats:4222'"),
        ("NATS_URL", "tls://nats:0", "expected tls://host:port"),
        ("NATS_URL", "tls://nats..svc:4222", "handshake_first=true, found 'tls://nats..svc:4222'"),
        ("AUTHORITY_URL", "https://.tidemark:8443", "expected https://host:port, found 'https://.tidemark:8443'"),
        ("LISTEN", ".host:9000", "expected host:port, found '.host:9000'"),
        (
            "NATS_URL",
            "tls://a:1?handshake_first=false",
            "expected tls://host:port or tls://host:port?handshake_first=true",
        ),
        ("NATS_URL", "tls://a:1?handshake_first=true tls://b:1", "?handshake_first=true at each URL or at none"),
        ("NATS_URL", "tls://a:4222,tls://user:word@b:4222", "expected no login in the URL"),
        ("NATS_CREDS_FILE", "user.creds", "expected the path of the creds file, an absolute path, found user.creds"),
        ("LISTEN", "9465", "expected host:port, found '9465'"),
        ("LISTEN", "host:70000", "expected host:port, found 'host:70000'"),
        ("SPLAY", "soon", "expected 0 to 3600 seconds, found 'soon'"),
        ("SPLAY", "nan", "expected 0 to 3600 seconds, found 'nan'"),
        ("SPLAY", "-1", "expected 0 to 3600 seconds, found '-1'"),
        ("WATCH", "kqueue", "expected auto, inotify or poll, found 'kqueue'"),
        ("LOG", "xml", "expected text or json, found 'xml'"),
        ("TARGETS", "nats://127.0.0.1", "nats://127.0.0.1: expected a URL that starts with signal:, http://"),
        ("LEAF", "", "expected a directory, as a target is nats-sys:// (the leaf is the connection's), found nothing"),
        ("TARGETS", f"{NATS} {NATS}", "expected each target once"),
        ("BUNDEL", "/x", "expected a known variable (TIDEMARK_BUNDLE, TIDEMARK_LEAF"),
    ],
)
def test_fault_names_its_variable(name: str, value: str, says: str) -> None:
    others = {"TARGETS": "nats-sys://"} if name == "LEAF" else {}
    found = [fault for fault in faults(**others | {name: value}) if fault.startswith(f"TIDEMARK_{name}: ")]
    assert found
    assert says in found[0]


def test_authority_url_and_token_need_each_other() -> None:
    assert faults(AUTHORITY_URL="https://authority:8443") == [
        "TIDEMARK_AUTHORITY_TOKEN_FILE: expected a path, as TIDEMARK_AUTHORITY_URL is set, found nothing"
    ]
    assert faults(AUTHORITY_TOKEN_FILE="/token") == [
        "TIDEMARK_AUTHORITY_URL: expected https://host:port, as TIDEMARK_AUTHORITY_TOKEN_FILE is set, found nothing"
    ]


def test_broker_needs_leaf_and_credentials_need_broker() -> None:
    assert faults(NATS_URL="tls://nats:4222") == [
        "TIDEMARK_LEAF: expected a directory, as TIDEMARK_NATS_URL is set (the leaf is the connection's), found nothing"
    ]
    assert faults(NATS_CREDS_FILE="/run/user.creds") == [
        "TIDEMARK_NATS_URL: expected tls://host:port, as TIDEMARK_NATS_CREDS_FILE is set, found nothing"
    ]
    assert "word" not in " ".join(faults(NATS_URL="tls://user:word@nats:4222"))


def test_broker_url_may_ask_for_tls_first() -> None:
    base = LEAST | {"TIDEMARK_LEAF": "/leaf"}
    first = "tls://a:1?handshake_first=true,tls://b?handshake_first=true"
    config = read_config(base | {"TIDEMARK_NATS_URL": first})
    assert (config.nats_servers, config.nats_handshake_first) == (("tls://a:1", "tls://b"), True)
    assert not read_config(base | {"TIDEMARK_NATS_URL": "tls://a:1"}).nats_handshake_first


def test_service_link_variables_are_ignored() -> None:
    links = {
        "TIDEMARK_AUTHORITY_SERVICE_HOST": "10.0.0.1",
        "TIDEMARK_AUTHORITY_SERVICE_PORT": "8443",
        "TIDEMARK_AUTHORITY_SERVICE_PORT_API": "8443",
        "TIDEMARK_AUTHORITY_PORT": "tcp://10.0.0.1:8443",
        "TIDEMARK_AUTHORITY_PORT_8443_TCP": "tcp://10.0.0.1:8443",
        "TIDEMARK_AUTHORITY_PORT_8443_TCP_ADDR": "10.0.0.1",
    }
    assert read_config(LEAST | links) == read_config(LEAST)


@given(
    st.dictionaries(
        st.sampled_from(["BUNDLE", "LEAF", "TARGETS", "CLASS", "LISTEN", "SPLAY", "POD", "X"]), st.text(max_size=40)
    )
)
def test_any_environment_is_configuration_or_named_faults(values: dict[str, str]) -> None:
    try:
        read_config(LEAST | {f"TIDEMARK_{name}": value for name, value in values.items()})
    except AgentConfigError as error:
        found = error.faults
    else:
        found = []
    assert all(fault.startswith("TIDEMARK_") for fault in found)
