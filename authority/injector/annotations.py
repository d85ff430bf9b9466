"""Reads a pod's ``tidemark.io/`` labels and annotations: the sidecar that the pod requests; pure.

The label ``tidemark.io/inject`` says how the workload reloads (``nats``, ``http`` or ``signal``); annotations say the
rest. docs/install.md lists them. An unknown annotation is refused: otherwise a typo would go unnoticed.
"""

import difflib
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlencode, urlsplit

from tidemark.faults import Faults
from tidemark.receipt import PodClass

PREFIX = "tidemark.io/"
INJECT = "tidemark.io/inject"
CLASS = "tidemark.io/class"
AGENT = "tidemark.io/agent"
INJECTED = "tidemark.io/injected"
"""Annotation of injected pods: they are left alone when the API server calls the webhook again."""

NUDGE = "tidemark.io/nudge"
"""Annotation that the authority sets on running pods; the injector ignores it."""

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
NONE = "none"

LARGEST_UID = 2**31 - 1
_LONGEST_SPLAY = 3600
_FILES = frozenset({"pidfile", "token_file", "creds", "password_file"})
"""Keys of targets that name a file."""
_SIGNALS = ("HUP", "USR1", "USR2")
_CONTAINER = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_OBJECT = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DIGITS = re.compile(r"[0-9]{1,10}")


class SidecarMode(StrEnum):
    """How the workload reloads, and how the agent proves it."""

    NATS = "nats"  # SIGHUP, proven on the server's monitoring and client ports
    HTTP = "http"  # POST /-/reload, proven by its answer
    SIGNAL = "signal"  # a signal, proven on the ports that are named, if any


_EVERYWHERE = ("container", "directory", "leaf-secret", "nats-url", "uid", "class", "splay", "targets")
_PROOFS = ("monitor-port", "nats-ports", "tls-ports")
_TARGET_KEYS: Mapping[SidecarMode, tuple[str, ...]] = {
    SidecarMode.NATS: ("process", *_PROOFS),
    SidecarMode.HTTP: ("reload-port", "reload-path"),
    SidecarMode.SIGNAL: ("process", "signal", *_PROOFS),
}
"""Annotations that the target is built from, by mode; ``targets`` replaces all of them."""

KEYS: Mapping[SidecarMode, tuple[str, ...]] = {mode: (*_EVERYWHERE, *keys) for mode, keys in _TARGET_KEYS.items()}
"""Every known annotation, by mode, without its prefix."""

_PORTS: Mapping[SidecarMode, Mapping[str, str]] = {
    SidecarMode.NATS: {"monitor-port": "8222", "nats-ports": "4222", "tls-ports": NONE},
    SidecarMode.SIGNAL: dict.fromkeys(_PROOFS, NONE),
}
_CLASSES = {
    SidecarMode.NATS: PodClass.REQUIRED,
    SidecarMode.HTTP: PodClass.APPLICATION,
    SidecarMode.SIGNAL: PodClass.APPLICATION,
}


class InjectionRefused(ValueError):
    """The pod cannot get a working sidecar; ``faults`` are sentences, each of which names what to change."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


@dataclass(frozen=True, slots=True)
class InjectionRequest:
    """The sidecar that a pod requests. Nine fields, since each is one annotation or label."""

    mode: SidecarMode
    targets: tuple[str, ...]
    """The agent's targets (``signal:?…``, ``http://…``)."""
    containers: tuple[str, ...]
    """Containers that get the output mounted; the first one reloads. Empty where the pod names none."""
    directory: str
    """Where the containers see the output."""
    leaf_secret: str | None
    """The Secret with the leaf; None where the agent manages no leaf."""
    nats_url: str | None
    """Brokers whose announcements the agent follows; "" for none, None for those of the settings."""
    uid: int | None
    """The user of the sidecar; None where it follows from the pod."""
    pod_class: PodClass
    splay: int
    """Seconds."""

    @property
    def signals(self) -> bool:
        """Whether the agent has to see and signal the workload's process."""
        return any(target.startswith("signal:") for target in self.targets)


def read_injection_request(
    labels: Mapping[str, str], annotations: Mapping[str, str], directory: str
) -> InjectionRequest:
    """Read a pod's request; ``directory`` is the default for the output.

    Raises:
        InjectionRefused: with every fault that was found.
    """
    try:
        mode = SidecarMode(labels[INJECT])
    except ValueError:
        raise InjectionRefused([f"label {INJECT}: expected {_one_of(SidecarMode)}, found {labels[INJECT]!r}"]) from None
    return _Reader(mode, labels, annotations).read(directory)


class _Reader:
    """Reads the annotations and collects every fault."""

    def __init__(self, mode: SidecarMode, labels: Mapping[str, str], annotations: Mapping[str, str]) -> None:
        self._mode = mode
        self._labels = labels
        own = {
            name: value
            for name, value in annotations.items()
            if name.startswith(PREFIX) and name not in (INJECTED, NUDGE)
        }
        self._given = {name.removeprefix(PREFIX): value.strip() for name, value in own.items()}
        self._default_container = annotations.get(DEFAULT_CONTAINER, "")
        self._faults = Faults(PREFIX)

    def read(self, directory: str) -> InjectionRequest:
        self._check_names()
        request = InjectionRequest(
            mode=self._mode,
            targets=self._targets(),
            containers=self._containers(),
            directory=self._directory(directory),
            leaf_secret=self._leaf_secret(),
            nats_url=self._nats_url(),
            uid=self._number("uid", 1, LARGEST_UID) if "uid" in self._given else None,
            pod_class=self._class(),
            splay=self._number("splay", 0, _LONGEST_SPLAY) if "splay" in self._given else 0,
        )
        if self._faults:
            raise InjectionRefused(self._faults)
        return request

    def _fault(self, key: str, expected: str) -> None:
        found = repr(self._given[key][:80]) if self._given.get(key) else "nothing"
        self._faults.expected(key, expected, found)

    def _check_names(self) -> None:
        allowed = KEYS[self._mode]
        for key in sorted(self._given.keys() - set(allowed)):
            likely = difflib.get_close_matches(key, allowed, n=1)
            hint = (
                f"did you mean {PREFIX}{likely[0]}?" if likely else f"with {self._mode} there are {', '.join(allowed)}"
            )
            self._faults.add(f"annotation {PREFIX}{key}: expected one that is known, found this one; {hint}")
        for name in sorted(self._labels):
            if name.startswith(PREFIX) and name not in (INJECT, CLASS, AGENT):
                self._faults.add(f"label {name}: expected {INJECT} or {CLASS}, found this one")

    def _targets(self) -> tuple[str, ...]:
        if "targets" in self._given:
            return self._own_targets(self._given["targets"].split())
        if self._mode is SidecarMode.HTTP:
            port = self._number("reload-port", 1, 65535)
            path = self._given.get("reload-path", "/-/reload")
            if not re.fullmatch(r"/[!-~]*", path) or "#" in path:
                self._fault("reload-path", "a path such as /-/reload")
            return (f"http://127.0.0.1:{port}{path}",)
        return (self._signal_target(),)

    def _signal_target(self) -> str:
        process = self._given.get("process", "nats-server" if self._mode is SidecarMode.NATS else "")
        if not process or "/" in process or not process.isprintable():
            self._fault("process", "the name of the process that is signalled, without '/'")
        name = self._given.get("signal", "HUP").removeprefix("SIG")
        if name not in _SIGNALS:
            self._fault("signal", _one_of(_SIGNALS))
        query = [("process", process), ("signal", name)]
        query += [("monitor", f"http://127.0.0.1:{port}") for port in self._ports("monitor-port", most=1)]
        query += [("nats", f"127.0.0.1:{port}") for port in self._ports("nats-ports")]
        query += [("tls", f"127.0.0.1:{port}") for port in self._ports("tls-ports")]
        return f"signal:?{urlencode(query, safe='/:')}"

    def _own_targets(self, targets: list[str]) -> tuple[str, ...]:
        """Targets as the pod writes them. The agent checks each target; here only what depends on the pod is."""
        for key in sorted(self._given.keys() & set(_TARGET_KEYS[self._mode])):
            self._fault(key, f"nothing here where {PREFIX}targets says it all")
        if not targets or len(set(targets)) < len(targets):
            self._fault("targets", "one target or more, each once, with spaces between them")
        for target in targets:
            if target.startswith("signal:?"):
                if self._mode is SidecarMode.HTTP:
                    self._fault("targets", f"no signal where {INJECT} is {self._mode}")
            elif not target.startswith(("http://", "https://", "nats-sys://")) or not _hostname(target):
                self._fault("targets", "targets such as http://127.0.0.1:9000/-/reload or signal:?process=nginx")
            for key in sorted(_FILES & _keys(target)):
                self._fault("targets", f"no {key}=, since the sidecar does not see the workload's files")
        return tuple(targets)

    def _ports(self, key: str, most: int = 16) -> list[int]:
        text = self._given.get(key, _PORTS[self._mode][key])
        if text == NONE:
            return []
        ports = [part.strip() for part in text.split(",")]
        if len(ports) > most or len(set(ports)) < len(ports) or not all(_is_port(port) for port in ports):
            self._fault(key, f"{'a port' if most == 1 else 'ports with commas between them'}, or '{NONE}'")
            return []
        return [int(port) for port in ports]

    def _containers(self) -> tuple[str, ...]:
        if "container" not in self._given:
            return (self._default_container,) if self._default_container else ()
        names = [name.strip() for name in self._given["container"].split(",")]
        if len(set(names)) < len(names) or not all(_CONTAINER.fullmatch(name) for name in names):
            self._fault("container", "names of containers with commas between them, each once")
        return tuple(names)

    def _directory(self, default: str) -> str:
        path = self._given.get("directory", default)
        if posixpath.normpath(path) != path or not re.fullmatch(r"/[^/:\s][^:\s]*", path):
            self._fault("directory", "an absolute path such as /run/tidemark, without ':', '..' or '/' at its end")
        return path

    def _leaf_secret(self) -> str | None:
        if "leaf-secret" not in self._given:
            return None
        name = self._given["leaf-secret"]
        if len(name) > 253 or not _OBJECT.fullmatch(name):
            self._fault("leaf-secret", "the name of a Secret in the pod's namespace")
        return name

    def _nats_url(self) -> str | None:
        text = self._given.get("nats-url")
        if text is None or text == NONE:
            return None if text is None else ""
        if "@" in text or not all(url.startswith("tls://") and _hostname(url) for url in text.split()) or not text:
            self._fault("nats-url", f"tls://host:port, several with spaces between them, or '{NONE}'")
        if "leaf-secret" not in self._given:
            self._faults.expected("nats-url", f"{PREFIX}leaf-secret beside it, to log in with", "none")
        return text

    def _class(self) -> PodClass:
        """Label and annotation have to agree, since the authority reads the label."""
        label, annotation = self._labels.get(CLASS), self._given.get("class")
        if label is not None and annotation is not None and label != annotation:
            self._fault("class", f"{label!r}, as label {CLASS} has it")
        name = label if annotation is None else annotation
        try:
            return _CLASSES[self._mode] if name is None else PodClass(name)
        except ValueError:
            self._faults.expected("class", _one_of(PodClass), repr(name))
            return PodClass.REQUIRED

    def _number(self, key: str, least: int, most: int) -> int:
        text = self._given.get(key, "")
        if not _DIGITS.fullmatch(text) or not least <= int(text) <= most:
            self._fault(key, f"a number from {least} to {most}")
            return least
        return int(text)


def _is_port(text: str) -> bool:
    return _DIGITS.fullmatch(text) is not None and 1 <= int(text) <= 65535


def _keys(target: str) -> set[str]:
    return {pair.partition("=")[0] for pair in target.partition("?")[2].split("&")}


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _one_of(names: Iterable[str]) -> str:
    return "one of " + ", ".join(names)
