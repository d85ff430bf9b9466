"""The trust file: all its faults at once, and the same again after a round trip."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.contract.ca_factory import CAS, DOMAIN, ROOT, SECOND, SIGNER, TRUST, leaf_recipe, signer
from tidemark.note import Signer, Verifier
from tidemark.trust import Trust, TrustError

CONTROL = ROOT.pem.decode()
KEY = str(SIGNER.verifier)
MINIMAL = f'trust_domain = "{DOMAIN}"\nkeys = ["{KEY}"]\n'


def faults_of(text: str | bytes) -> str:
    with pytest.raises(TrustError) as refused:
        Trust.parse(text if isinstance(text, bytes) else text.encode())
    message = str(refused.value)
    assert message.startswith("trust file: ")
    assert message.count("trust file:") == 1
    return message


def test_a_minimal_file_has_the_defaults() -> None:
    trust = Trust.parse(MINIMAL.encode())
    assert trust == Trust(DOMAIN, (SIGNER.verifier,))
    assert (trust.threshold, trust.min_sequence, trust.tolerance_seconds, trust.control_ca) == (1, 0, 600, None)


def test_the_file_that_the_documentation_shows() -> None:
    trust = Trust.parse(
        f"""
        trust_domain = "{DOMAIN}"
        keys = ["{KEY}", "{SECOND.verifier}"]   # two while one is replaced
        threshold = 2
        min_sequence = 12
        tolerance_seconds = 5
        control_ca = '''
{CONTROL}'''
        """.encode()
    )
    assert trust == Trust(DOMAIN, (SIGNER.verifier, SECOND.verifier), 2, 12, 5, CONTROL)


LABELS = st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters="+"), min_size=1, max_size=8)


@given(
    st.lists(LABELS, min_size=1, max_size=3, unique=True),
    st.integers(1, 3),
    st.integers(0, 2**53),
    st.integers(0, 86400),
    st.sampled_from(
        [None, CONTROL, CONTROL.strip(), f"# '''\n{CONTROL}", CONTROL.replace("\n", "\r\n"), f"\n\n{CONTROL}\n"]
    ),
)
def test_a_trust_file_reads_back_as_it_was_written(
    labels: list[str], threshold: int, floor: int, tolerance: int, control: str | None
) -> None:
    keys = tuple(Verifier(f"{DOMAIN}/{label}", signer(label).verifier.public_key) for label in labels)
    trust = Trust(DOMAIN, keys, min(threshold, len(keys)), floor, tolerance, control)
    assert Trust.parse(trust.dump().encode()) == trust


def test_every_fault_is_reported_at_once() -> None:
    message = faults_of(
        f"""
        trust_domain = "not a domain"
        keys = ["nonsense", 7, "{KEY}"]
        threshold = 3
        min_sequence = -1
        tolerance_seconds = 100000
        control_ca = "nonsense"
        tolerance = 5
        """
    )
    for fault in (
        "tolerance: unknown; expected one of control_ca, keys, min_sequence",
        "keys: verifier key: expected name+id+key, found 1 of these three parts",
        "trust_domain: trust domain 'not a domain': expected 1 to 64 letters",
        f"keys: expected names that start with 'not a domain/', found '{SIGNER.name}'",
        "threshold: expected 1 to 1 (the number of keys), found 3",
        "min_sequence: expected 0 or more, found -1",
        "tolerance_seconds: expected 0 to 86400, found 100000",
        "control_ca: line 1: expected a CERTIFICATE block",
    ):
        assert fault in message


BAD: dict[str, tuple[str | bytes, list[str]]] = {
    "nothing": ("", ["trust_domain", "keys: expected one verifier key or more, found none"]),
    "no domain": (f'keys = ["{KEY}"]', ["trust_domain: trust domain ''"]),
    "no keys": (f'trust_domain = "{DOMAIN}"', ["keys: expected one verifier key or more"]),
    "keys that are no list": (f'trust_domain = "{DOMAIN}"\nkeys = "{KEY}"', ["keys: expected list, found str"]),
    "a domain that is no text": (f'trust_domain = 7\nkeys = ["{KEY}"]', ["trust_domain: expected str, found int"]),
    "a threshold of true": (MINIMAL + "threshold = true", ["threshold: expected int, found bool"]),
    "a threshold of 0": (MINIMAL + "threshold = 0", ["threshold: expected 1 to 1"]),
    "a threshold with a fraction": (MINIMAL + "threshold = 1.0", ["threshold: expected int, found float"]),
    "a tolerance as text": (MINIMAL + 'tolerance_seconds = "600"', ["tolerance_seconds: expected int, found str"]),
    "a tolerance below 0": (MINIMAL + "tolerance_seconds = -1", ["tolerance_seconds: expected 0 to 86400, found -1"]),
    "a control CA that is no text": (MINIMAL + "control_ca = []", ["control_ca: expected str, found list"]),
    "an unknown table": (MINIMAL + "[control]\nca = 1", ["control: unknown; expected one of"]),
    "no TOML": ("trust_domain = ", ["expected TOML in UTF-8"]),
    "JSON": ('{"trust_domain":"x"}', ["expected TOML in UTF-8"]),
    "a key of the file twice": (MINIMAL + MINIMAL, ["expected TOML in UTF-8"]),
    "not UTF-8": (MINIMAL.encode() + b"# \xff", ["expected TOML in UTF-8"]),
    "nesting without end": ("keys = " + "[" * 100_000, ["expected TOML in UTF-8"]),
    "a number of five thousand digits": (MINIMAL + f"min_sequence = {'1' * 5000}", ["expected TOML in UTF-8"]),
    "another deployment's key": (
        f'trust_domain = "{DOMAIN}"\nkeys = ["{Signer("other.test/a", SIGNER.private_key).verifier}"]',
        [f"keys: expected names that start with '{DOMAIN}/', found 'other.test/a'"],
    ),
    "a longer deployment's key": (
        f'trust_domain = "{DOMAIN}"\nkeys = ["{Signer(f"{DOMAIN}.evil/a", SIGNER.private_key).verifier}"]',
        [f"keys: expected names that start with '{DOMAIN}/'"],
    ),
    "a private key": (f'trust_domain = "{DOMAIN}"\nkeys = ["{SIGNER.dump()}"]', ["keys: verifier key"]),
    "a key twice": (f'trust_domain = "{DOMAIN}"\nkeys = ["{KEY}", "{KEY}"]', ["keys: expected each public key once"]),
    "a key under two names": (
        MINIMAL.replace("]", f', "{Signer(f"{DOMAIN}/b", SIGNER.private_key).verifier}"]') + "threshold = 2",
        ["keys: expected each public key once, or one signer would count as several"],
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_fault_is_named(fault: str) -> None:
    text, messages = BAD[fault]
    message = faults_of(text)
    assert [part for part in messages if part not in message] == []
    assert SIGNER.dump().split("+", 4)[4] not in message


CONTROL_CAS = {
    "garbage": "garbage",
    "nothing": "# nothing",
    "cut": CONTROL[:200],
    "a leaf": leaf_recipe(CAS[0]).make().pem.decode(),
    "a leaf beside the CA": CONTROL + leaf_recipe(CAS[0]).make().pem.decode(),
    "its key": ROOT.key_pem.decode(),
    "its key beside it": CONTROL + ROOT.key_pem.decode(),
    "half a surrogate pair": CONTROL + "# \ud800",
}


@pytest.mark.parametrize("kind", CONTROL_CAS)
def test_control_ca_without_ca_certificates_is_named(kind: str) -> None:
    with pytest.raises(TrustError, match="control_ca: ") as refused:
        Trust(DOMAIN, (SIGNER.verifier,), control_ca=CONTROL_CAS[kind])
    assert ROOT.key_pem.decode().split("\n")[1] not in str(refused.value)


def test_two_control_cas_are_allowed() -> None:
    both = CONTROL + CAS[0].pem.decode()
    assert Trust(DOMAIN, (SIGNER.verifier,), control_ca=both).control_ca == both


def test_empty_control_ca_reads_as_none() -> None:
    assert Trust.parse((MINIMAL + 'control_ca = ""').encode()).control_ca is None


def test_trust_made_in_code_is_checked_too() -> None:
    with pytest.raises(TrustError, match=r"keys: .*; threshold: "):
        Trust(DOMAIN, (SIGNER.verifier, Signer("other.test/b", SECOND.private_key).verifier), threshold=3)
    assert TRUST.keys == (SIGNER.verifier, SECOND.verifier)


@given(st.text(max_size=60))
def test_any_text_is_a_trust_file_or_a_trust_error(text: str) -> None:
    for candidate in (text, MINIMAL + text, MINIMAL.replace(DOMAIN, text)):
        try:
            Trust.parse(candidate.encode(errors="surrogatepass"))
        except TrustError:
            continue
