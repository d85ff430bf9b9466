"""The trust file (``trust.toml``): the keys that an agent trusts. It has a ConfigMap of its own, apart from bundles.

::

    trust_domain = "bus.example.com"
    keys = ["bus.example.com/a+1f2e3d4c+AQID…"]   # verifier keys of signed notes; names start with the trust domain
    threshold = 1                                 # how many of the keys must have signed (1)
    min_sequence = 0                              # no statement below this sequence is adopted (0)
    tolerance_seconds = 600                       # how far clocks may differ (600)
    control_ca = '''-----BEGIN CERTIFICATE----- … '''   # CA of the authority's own API (none: no receipts)

Verifier keys have the text form of https://c2sp.org/signed-note.
"""

import json
import tomllib
from dataclasses import dataclass
from typing import TypeVar

from tidemark.bundle import check_trust_domain
from tidemark.certificates import PemError, is_ca, parse_certificates
from tidemark.note import NoteError, Verifier

T = TypeVar("T")

_KNOWN = {"trust_domain", "keys", "threshold", "min_sequence", "tolerance_seconds", "control_ca"}


class TrustError(ValueError):
    """The trust file cannot be used; the message lists every fault with its key."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The content of the trust file.

    Raises:
        TrustError: a value is wrong; all faults at once.
    """

    trust_domain: str
    keys: tuple[Verifier, ...]
    """One or more, each public key once; names start with the trust domain and a slash."""
    threshold: int = 1
    """How many of the keys must have signed: 1 to their number."""
    min_sequence: int = 0
    """No statement below this sequence is adopted: 0 or more."""
    tolerance_seconds: int = 600
    """How far clocks may differ: 0 to 86400."""
    control_ca: str | None = None
    """One CA certificate or more, as PEM; None where receipts are not sent."""

    def __post_init__(self) -> None:
        faults = [*_domain_faults(self), *_number_faults(self), *_control_ca_faults(self.control_ca)]
        if faults:
            raise TrustError("trust file: " + "; ".join(faults))

    @classmethod
    def parse(cls, data: bytes) -> "Trust":
        """Read a trust file.

        Raises:
            TrustError: not TOML, an unknown key, or values that are missing or wrong; all faults at once.
        """
        try:
            table = tomllib.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise TrustError(f"trust file: expected TOML in UTF-8, found {error}") from None
        faults = [f"{key}: unknown; expected one of {', '.join(sorted(_KNOWN))}" for key in sorted(set(table) - _KNOWN)]
        keys: list[Verifier] = []
        for text in _typed(table, "keys", list, [], faults):
            try:
                keys.append(Verifier.parse(text if isinstance(text, str) else ""))
            except NoteError as error:
                faults.append(f"keys: {error}")
        domain = _typed(table, "trust_domain", str, "", faults)
        threshold = _typed(table, "threshold", int, 1, faults)
        min_sequence = _typed(table, "min_sequence", int, 0, faults)
        tolerance = _typed(table, "tolerance_seconds", int, 600, faults)
        control_ca = _typed(table, "control_ca", str, "", faults) or None
        try:
            trust = cls(domain, tuple(keys), threshold, min_sequence, tolerance, control_ca)
        except TrustError as error:
            faults.append(str(error).removeprefix("trust file: "))
        if faults:
            raise TrustError("trust file: " + "; ".join(faults))
        return trust

    def dump(self) -> str:
        """The trust file of these values, as ``python -m authority trust`` prints it."""
        lines = [f'trust_domain = "{self.trust_domain}"', "keys = ["]
        lines += [f"    {_basic_string(str(key))}," for key in self.keys]
        lines += ["]", f"threshold = {self.threshold}", f"min_sequence = {self.min_sequence}"]
        lines += [f"tolerance_seconds = {self.tolerance_seconds}"]
        if self.control_ca is not None:
            plain = "'''" not in self.control_ca and "\r" not in self.control_ca  # a literal string has no escapes
            lines += ["control_ca = " + (f"'''\n{self.control_ca}'''" if plain else _basic_string(self.control_ca))]
        return "\n".join(lines) + "\n"


def _basic_string(text: str) -> str:
    """A TOML basic string: escaped as in JSON, but for U+007F, which neither keys nor PEM hold."""
    return json.dumps(text, ensure_ascii=False)


def _typed(table: dict[str, object], key: str, kind: type[T], default: T, faults: list[str]) -> T:
    value = table.get(key, default)
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    faults.append(f"{key}: expected {kind.__name__}, found {type(value).__name__}")
    return default


def _domain_faults(trust: Trust) -> list[str]:
    faults = []
    try:
        check_trust_domain(trust.trust_domain)
    except ValueError as error:
        faults.append(f"trust_domain: {error}")
    if not trust.keys:
        faults.append("keys: expected one verifier key or more, found none")
    if len({key.public_key for key in trust.keys}) < len(trust.keys):
        faults.append("keys: expected each public key once, or one signer would count as several, found one twice")
    for key in trust.keys:
        if not key.name.startswith(f"{trust.trust_domain}/"):
            faults.append(f"keys: expected names that start with '{trust.trust_domain}/', found {key.name!r}")
    return faults


def _number_faults(trust: Trust) -> list[str]:
    faults = []
    if trust.keys and not 1 <= trust.threshold <= len(trust.keys):
        faults.append(f"threshold: expected 1 to {len(trust.keys)} (the number of keys), found {trust.threshold}")
    if trust.min_sequence < 0:
        faults.append(f"min_sequence: expected 0 or more, found {trust.min_sequence}")
    if not 0 <= trust.tolerance_seconds <= 86400:
        faults.append(f"tolerance_seconds: expected 0 to 86400, found {trust.tolerance_seconds}")
    return faults


def _control_ca_faults(pem: str | None) -> list[str]:
    if pem is None:
        return []
    try:
        certificates = parse_certificates(pem.encode())
    except (PemError, UnicodeEncodeError) as error:
        return [f"control_ca: {error}"]
    return [] if all(map(is_ca, certificates)) else ["control_ca: expected CA certificates, found another"]
