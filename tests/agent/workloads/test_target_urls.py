"""The URLs of targets: what is read, and how faults are named."""

import re
import string
from pathlib import Path
from signal import SIGUSR1

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.workloads.target_urls import TargetError, parse_target
from agent.workloads.targets import Address, HttpTarget, SignalTarget, SystemTarget
from tidemark.receipt import Level

NATS = "signal:?process=nats-server&signal=HUP&monitor=http://127.0.0.1:8222&nats=127.0.0.1:4222&tls=127.0.0.1:6222"


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
def test_unusable_target_names_the_fault(url: str, says: str) -> None:
    with pytest.raises(TargetError, match=re.escape(says)):
        parse_target(url)


def test_target_names_every_fault_at_once() -> None:
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
def test_highest_level_of_proof_follows_from_the_url(url: str, allowed: Level) -> None:
    assert parse_target(url).allowed is allowed


def test_endpoint_lacks_the_agents_own_keys() -> None:
    target = parse_target("https://[::1]:9000/-/reload?all=yes&token_file=/run/token&tls_name=web&x=a%2Fb")
    assert isinstance(target, HttpTarget)
    assert target.endpoint == "https://[::1]:9000/-/reload?all=yes&x=a%2Fb"
    assert (target.token_file, target.tls_name) == (Path("/run/token"), "web")


def test_system_target_is_probed_at_its_own_port_by_default() -> None:
    least = parse_target("nats-sys://")
    assert isinstance(least, SystemTarget)
    assert (least.address, least.nats, least.tls) == (Address("127.0.0.1", 4222), (Address("127.0.0.1", 4222),), ())
    first = parse_target("nats-sys://[::1]:4333?handshake_first=true&user=sys&password_file=/run/password")
    assert isinstance(first, SystemTarget)
    assert (first.nats, first.tls, first.user) == ((), (Address("::1", 4333),), "sys")
    other = parse_target("nats-sys://127.0.0.1:4222?creds=/run/sys.creds&tls=127.0.0.1:6222&tls_name=nats-0")
    assert isinstance(other, SystemTarget)
    assert (other.nats, other.tls, other.tls_name) == ((), (Address("127.0.0.1", 6222),), "nats-0")


def test_pidfile_is_of_a_nats_server_by_default() -> None:
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
def test_signal_target_is_read_as_written(
    process: str, pidfile: str | None, nats: list[Address], tls: list[Address], monitor: Address | None
) -> None:
    parts = [f"process={process}"] + ([f"pidfile={pidfile}"] if pidfile else [])
    parts += [f"monitor=http://{monitor}"] if monitor else []
    parts += [f"nats={address}" for address in nats] + [f"tls={address}" for address in tls]
    target = parse_target("signal:?" + "&".join(parts))
    assert isinstance(target, SignalTarget)
    assert (target.process, target.pidfile, target.nats, target.tls) == (process, pidfile, tuple(nats), tuple(tls))
    assert target.monitor == (f"http://{monitor}" if monitor else None)
    assert target.can_be_probed is (target.allowed is Level.PROVEN)


@given(
    st.text(max_size=200)
    | st.text(max_size=100).map(lambda text: f"signal:?{text}")
    | st.text(max_size=100).map(lambda text: f"http://{text}")
    | st.text(max_size=100).map(lambda text: f"nats-sys://{text}")
)
def test_any_text_is_a_target_or_a_target_error(text: str) -> None:
    try:
        target = parse_target(text)
    except TargetError as error:
        message = str(error)
    else:
        message = f"expected {target.url}"
    assert "expected" in message
