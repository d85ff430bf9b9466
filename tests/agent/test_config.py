"""The environment and the URLs of targets: what is read, and how faults are named."""

import re
import string
from pathlib import Path
from signal import SIGHUP, SIGUSR1

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import AgentConfigError, read_config
from agent.log import Style
from agent.workloads.targets import Address, HttpTarget, SignalTarget, SystemTarget, TargetError, parse_target
from tidemark.receipt import Level, PodClass

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


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("signal:", "expected process=<name> or pidfile=<path>, found neither"),
        ("signal:?process=", "process: expected a value, found none"),
        ("signal:?process=a/b", "process: expected a name without '/'"),
        ("signal:?pidfile=nats.pid", "pidfile: expected a path that starts with '/'"),
        ("signal:?process=a&process=b", "process: expected once, found 2 times"),
        ("signal:?process=a&signal=KILL", "signal: expected one of HUP, USR1, USR2, found 'KILL'"),
        ("signal:?process=a&color=red", "color: expected one of process, pidfile"),
        ("signal:?process=a&monitor=https://127.0.0.1:8222", "monitor: expected http://host:port"),
        ("signal:?process=a&monitor=127.0.0.1:8222", "monitor: expected http://host:port"),
        ("signal:?process=a&nats=4222", "nats: expected host:port, found '4222'"),
        ("signal:?process=a&tls=host:0", "tls: expected host:port, found 'host:0'"),
        ("signal:?process=a&nats=.nats:4222", "nats: expected host:port, found '.nats:4222'"),
        ("signal:?process=a&monitor=http://nats..svc:8222", "monitor: expected http://host:port"),
        ("nats-sys://nats..svc:4222", "host:port: expected host:port, found 'nats..svc:4222'"),
        ("http://web..svc/", "expected http://host:port/path, found 'web..svc'"),
        ("signal:?process=a&tls=u@host:1", "tls: expected host:port"),
        ("signal://host?process=a", "found something between 'signal:' and '?'"),
        ("http://user:word@127.0.0.1/", "expected no user and password in the URL"),
        ("http:///path", "found no host"),
        ("http://host:70000/", "expected a port from 1 to 65535"),
        ("http://127.0.0.1/?token_file=token", "token_file: expected a path that starts with '/', found 'token'"),
        ("http://127.0.0.1/?token_file=/a&token_file=/b", "token_file: expected once, found 2 times"),
        ("http://127.0.0.1/?tls_name=web", "tls_name: expected with https:// alone"),
        ("https:///path", "expected https://host:port/path, found no host"),
        ("nats-sys://user:word@127.0.0.1:4222", "expected no user and password in the URL"),
        ("nats-sys://127.0.0.1", "host:port: expected host:port, found '127.0.0.1'"),
        ("nats-sys://127.0.0.1:4222/x", "found a path"),
        ("nats-sys://?creds=sys.creds", "creds: expected a path that starts with '/', found 'sys.creds'"),
        ("nats-sys://?user=sys", "expected creds=, or user= and password_file=, or none of them"),
        ("nats-sys://?user=sys&password_file=/p&creds=/c", "expected creds=, or user= and password_file=, or none"),
        ("nats-sys://?handshake_first=yes", "handshake_first: expected true, found 'yes'"),
        ("nats-sys://?monitor=http://127.0.0.1:8222", "monitor: expected one of creds, user"),
        ("ftp://127.0.0.1/", "expected a URL that starts with signal:, http://, https:// or nats-sys://, found 'ftp'"),
        ("reload", "found 'no scheme'"),
    ],
)
def test_a_target_that_cannot_be_used_says_why(url: str, says: str) -> None:
    with pytest.raises(TargetError, match=re.escape(says)):
        parse_target(url)


def test_every_fault_of_a_target_is_named_at_once() -> None:
    with pytest.raises(TargetError) as caught:
        parse_target("signal:?signal=KILL&tls=x&what=1")
    assert len(str(caught.value).split("; ")) == 4


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("signal:?process=a&signal=USR1", Level.SIGNALLED),
        ("signal:?process=a&monitor=http://127.0.0.1:8222", Level.RELOADED),
        (NATS, Level.PROVEN),
        ("signal:?pidfile=/run/nats.pid&tls=[::1]:6222", Level.PROVEN),
        ("http://127.0.0.1:9000/-/reload", Level.PROVEN),
        ("https://127.0.0.1:9000/-/reload?token_file=/run/token", Level.PROVEN),
        ("nats-sys://", Level.PROVEN),
    ],
)
def test_what_a_target_can_show_follows_from_its_url(url: str, allowed: Level) -> None:
    assert parse_target(url).allowed is allowed


def test_what_is_the_agents_own_in_a_url_is_not_the_applications() -> None:
    target = parse_target("https://[::1]:9000/-/reload?all=yes&token_file=/run/token&tls_name=web&x=a%2Fb")
    assert isinstance(target, HttpTarget)
    assert target.endpoint == "https://[::1]:9000/-/reload?all=yes&x=a%2Fb"
    assert (target.token_file, target.tls_name) == (Path("/run/token"), "web")


def test_a_server_is_asked_and_looked_at_by_the_same_port_unless_said_otherwise() -> None:
    least = parse_target("nats-sys://")
    assert isinstance(least, SystemTarget)
    assert (least.address, least.nats, least.tls) == (Address("127.0.0.1", 4222), (Address("127.0.0.1", 4222),), ())
    first = parse_target("nats-sys://[::1]:4333?handshake_first=true&user=sys&password_file=/run/password")
    assert isinstance(first, SystemTarget)
    assert (first.nats, first.tls, first.user) == ((), (Address("::1", 4333),), "sys")
    other = parse_target("nats-sys://127.0.0.1:4222?creds=/run/sys.creds&tls=127.0.0.1:6222&tls_name=nats-0")
    assert isinstance(other, SystemTarget)
    assert (other.nats, other.tls, other.tls_name) == ((), (Address("127.0.0.1", 6222),), "nats-0")


def test_a_pid_file_is_a_nats_servers_unless_said_otherwise() -> None:
    target = parse_target("signal:?pidfile=/run/nats.pid")
    assert isinstance(target, SignalTarget)
    assert (target.process, target.pidfile) == ("nats-server", "/run/nats.pid")
    other = parse_target("signal:?pidfile=/run/nginx.pid&process=nginx&signal=SIGUSR1")
    assert isinstance(other, SignalTarget)
    assert (other.process, other.signal) == ("nginx", SIGUSR1)


NAMES = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=30)
ADDRESSES = st.builds(Address, st.ip_addresses().map(str), st.integers(1, 65535))


@given(
    process=NAMES,
    pidfile=st.none() | NAMES.map(lambda name: f"/run/{name}"),
    nats=st.lists(ADDRESSES, max_size=3),
    tls=st.lists(ADDRESSES, max_size=3),
    monitor=st.none() | ADDRESSES,
)
def test_a_signal_target_is_read_as_it_is_written(
    process: str, pidfile: str | None, nats: list[Address], tls: list[Address], monitor: Address | None
) -> None:
    parts = [f"process={process}"] + ([f"pidfile={pidfile}"] if pidfile else [])
    parts += [f"monitor=http://{monitor}"] if monitor else []
    parts += [f"nats={address}" for address in nats] + [f"tls={address}" for address in tls]
    target = parse_target("signal:?" + "&".join(parts))
    assert isinstance(target, SignalTarget)
    assert (target.process, target.pidfile, target.nats, target.tls) == (process, pidfile, tuple(nats), tuple(tls))
    assert target.monitor == (f"http://{monitor}" if monitor else None)
    assert target.shows is (target.allowed is Level.PROVEN)


@given(
    st.text(max_size=200)
    | st.text(max_size=100).map(lambda text: f"signal:?{text}")
    | st.text(max_size=100).map(lambda text: f"http://{text}")
    | st.text(max_size=100).map(lambda text: f"nats-sys://{text}")
)
def test_any_text_is_a_target_or_an_error_that_says_so(text: str) -> None:
    try:
        target = parse_target(text)
    except TargetError as error:
        said = str(error)
    else:
        said = f"expected {target.url}"
    assert "expected" in said


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
