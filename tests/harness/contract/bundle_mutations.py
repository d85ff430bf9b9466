"""Mutated bundles: what an attacker without the key can send, and what a faulty authority could sign."""

import json
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from tests.harness.contract.bundle_faults import DISJOINT, LATE
from tests.harness.contract.ca_factory import (
    CAS,
    DOMAIN,
    INSTALLED,
    KNOWN,
    NOW,
    OTHER_ROOT,
    SECOND,
    SEQUENCE,
    SIGNER,
    TOLERANCE,
    TRUST,
    MadeCertificate,
    bundle,
    fields,
    intermediate,
    iso,
    leaf_recipe,
    pem,
    signed,
    text_of,
)
from tidemark.bundle import Bundle
from tidemark.note import NoteError
from tidemark.trust import Trust
from tidemark.verify import MAX_BYTES, Known, Mark

ORIGINAL = bundle()

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["0" * 64, "root"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["epoch", "sha256"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """One to three small changes: a bit flipped, a piece cut, doubled, moved or put in."""
    mutated = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(mutated) - 1, 0)))
        end = min(len(mutated), at + draw(st.sampled_from([1, 2, 16, 64, 65, 700])))
        match draw(st.sampled_from(["flip", "cut", "double", "insert", "truncate"])):
            case "flip" if mutated:
                mutated[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del mutated[at:end]
            case "double":
                mutated[at:at] = mutated[at:end]
            case "insert":
                mutated[at:at] = draw(
                    st.binary(max_size=3) | st.sampled_from([b"\n", b"\r\n", b" ", b"# x\n", b"-----"])
                )
            case _:
                del mutated[at:]
    return bytes(mutated)


OTHERS: list[MadeCertificate] = [
    intermediate(CAS[0].epoch or 0, OTHER_ROOT, "other"),
    OTHER_ROOT,
    leaf_recipe(CAS[0]).make(),
]


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A ``ca.crt``: mutated bytes, or whole certificates dropped, doubled, in another order, or of others."""
    if draw(st.booleans()):
        return draw(mutations(pem(CAS)))
    made = draw(st.lists(st.sampled_from([*CAS, *OTHERS]), max_size=6) | st.permutations(CAS))
    joined = draw(st.sampled_from([b"", b"\n", b"# comment\n", b"garbage\n", CAS[0].key_pem]))
    return joined.join(ca.pem for ca in made)


INSTANTS = st.sampled_from([iso(instant) for instant in (0, NOW, NOW + TOLERANCE, NOW + TOLERANCE + 1, NOW + 10**6)])
FINGERPRINTS = st.sampled_from(["ab" * 32, *(ca.sha256 for ca in CAS)])
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    "trust_domain": st.sampled_from([DOMAIN, DOMAIN, "other.test"]),
    "sequence": st.integers(SEQUENCE - 3, SEQUENCE + 1),
    "reason": st.sampled_from(["rotation", "forced", "rollback", "revocation"]),
    "issued_at": INSTANTS,
    "next_update": INSTANTS,
    "prepare_seconds": st.integers(1, 1199),
    "withdrawn": st.just([]) | st.lists(FINGERPRINTS, max_size=2),
    "previous": FINGERPRINTS,
}
"""Fields of a statement, each with values that are right in form."""


@st.composite
def texts(draw: st.DrawFn, ca_crt: bytes) -> str:
    """A statement about ``ca_crt``: fields dropped, swapped, given twice, of another value or kind; mutated."""
    statement: dict[str, Any] = fields(CAS, ca_crt)
    place = draw(st.sampled_from([statement, *statement["anchors"]]))
    name, other = (draw(st.sampled_from(sorted(place))) for _ in range(2))
    match draw(st.sampled_from(["none", "value", "value", "drop", "swap", "kind", "twice", "bytes"])):
        case "drop":
            del place[name]
        case "swap":
            place[name], place[other] = place[other], place[name]
        case "value":
            statement |= draw(st.fixed_dictionaries({}, optional=VALUES))
        case "kind":
            place[name] = draw(JSON)
        case "twice":
            return text_of(statement).replace("{", "{" + json.dumps(name) + ":1,", 1)
        case "bytes":
            return draw(mutations(text_of(statement).encode())).decode(errors="replace")
        case _:
            pass
    return text_of(statement)


@st.composite
def tampered(draw: st.DrawFn) -> Bundle:
    """What an attacker without the key can send: mutated pieces of valid bundles."""
    ca_crt = draw(st.sampled_from([ORIGINAL.ca, ORIGINAL.ca, INSTALLED.ca, pem(OTHERS)]) | mutations(ORIGINAL.ca))
    notes = [ORIGINAL.note, INSTALLED.note, signed(text_of(fields()), (SIGNER, SECOND))]
    whole = draw(st.sampled_from(notes))
    text, _, lines = whole.rpartition(b"\n\n")
    spliced = text + b"\n\n" + draw(st.sampled_from(notes)).rpartition(b"\n\n")[2]
    huge = st.sampled_from([ORIGINAL.note + lines * 2, ORIGINAL.note + b"x" * MAX_BYTES])
    return Bundle(ca_crt, draw(st.just(whole) | mutations(whole) | st.just(spliced) | huge))


@st.composite
def resigned(draw: st.DrawFn) -> Bundle:
    """What a faulty authority could send: any statement, signed with the trusted key, about exactly these bytes."""
    ca_crt = draw(st.just(ORIGINAL.ca) | st.just(ORIGINAL.ca) | files())
    text = draw(texts(ca_crt))
    try:
        return Bundle(ca_crt, signed(text))
    except NoteError:
        return Bundle(ca_crt, signed(text_of(fields(CAS, ca_crt))))


@dataclass(frozen=True)
class MutationCase:
    """What an agent knows and trusts, and its clock, when the bundle arrives."""

    known: Known = KNOWN
    now: int = NOW
    trust: Trust = TRUST


SITUATIONS = {
    "ordinary": MutationCase(),
    "nothing known": MutationCase(Known()),
    "a later one verified": MutationCase(Known(highest=Mark(SEQUENCE + 1, "0" * 64), installed=KNOWN.installed)),
    "a later one shown": MutationCase(Known(Mark(SEQUENCE + 2, "0" * 64), KNOWN.installed, SEQUENCE + 1)),
    "another text verified": MutationCase(Known(Mark(SEQUENCE, "0" * 64), KNOWN.installed)),
    "a higher floor": MutationCase(trust=replace(TRUST, min_sequence=SEQUENCE + 1)),
    "another set in place": MutationCase(Known(highest=KNOWN.highest, installed=DISJOINT)),
    "a clock behind": MutationCase(now=NOW - 2000),
    "a clock ahead": MutationCase(now=LATE),
}
NAMES = st.just("ordinary") | st.just("another set in place") | st.sampled_from(sorted(SITUATIONS))
