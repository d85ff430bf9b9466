"""Leaves that operators ask for: for a client outside the cluster, or for a test by hand.

Such a leaf is signed as the workloads' leaves are, recorded, and only then handed out. No target shows it, and it is
not renewed.
"""

from dataclasses import dataclass

from authority.controllers.context import ControllerContext
from authority.issuer.interface import IssuedLeaf, IssuerError
from authority.issuer.serialized import SerializedIssuer
from authority.journal.history import EpochCa, History
from authority.journal.record_types import LeafRecord
from authority.pki.names import LONGEST_NAME, canonical_address, leaf_faults
from authority.rotation.events import LeafIssued
from authority.rotation.leaf_renewal import LeafSubject, checked_leaf, leaf_request, signing_ca
from authority.rotation.operator_requests import RotationRefused
from tidemark.certificates import Certificate, LeafRejected, not_after
from tidemark.strict_json import FieldError, Fields

_MOST_NAMES = 200
"""Names of one leaf at most: its record holds all of them, and OpenBao refuses a thousand strings."""


@dataclass(frozen=True, slots=True)
class LeafOrder:
    """A leaf that an operator (``who``) asks for, for a ``reason``."""

    workload: LeafSubject
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class ManualLeaf:
    """A leaf that was signed for an operator."""

    signing: EpochCa
    """The CA that signed."""

    leaf: Certificate
    issued: IssuedLeaf

    @property
    def serial(self) -> str:
        """The leaf's serial number in hex."""
        return f"{self.leaf.serial_number:x}"


def read_workload(fields: Fields) -> LeafSubject:
    """The subject of the leaf, from the fields of a request: ``name``, and ``dns`` or ``ip`` or both.

    Raises:
        FieldError: a name that the configuration would not accept either.
    """
    name = fields.string("name", LONGEST_NAME)
    if not name:
        raise FieldError(f"field 'name': expected 1 to {LONGEST_NAME} characters, found 0")
    dns, ip = (tuple(fields.strings(key)) if key in fields else () for key in ("dns", "ip"))
    if len(dns) + len(ip) > _MOST_NAMES:
        raise FieldError(f"field 'dns': expected, with 'ip', at most {_MOST_NAMES} names, found {len(dns) + len(ip)}")
    for key, complaint in leaf_faults(name, dns, ip):
        raise FieldError(f"field {key!r}: {complaint}")
    return LeafSubject(name, name, dns, tuple(map(canonical_address, ip)))


async def issue(context: ControllerContext, issuer: SerializedIssuer, history: History, order: LeafOrder) -> ManualLeaf:
    """Sign the leaf with the CA that signs now, and record it.

    Raises:
        RotationRefused: no CA signs.
        IssuerError, JournalError, ClockDiffers: the leaf could not be signed or recorded, and is not handed out.
    """
    now, workload = context.now(), order.workload
    signing = signing_ca(history, now)
    if signing is None:
        raise RotationRefused("leaf: expected a CA that signs, found none at present; status says what is missing")
    context.check_clock()
    await context.journal.confirm(history)
    issued = await issuer.issue_leaf(signing.ca_id, leaf_request(workload, signing, context.timing, now))
    try:
        made = ManualLeaf(signing, checked_leaf(issued, signing, now), issued)
    except LeafRejected as error:
        raise IssuerError(str(error)) from None
    names = (*workload.dns_names, *workload.ip_addresses)
    record = LeafRecord(now, signing.sha256, workload.name, names, made.serial, order.who, order.reason)
    # Recorded before it is handed out: no leaf exists outside that an auditor cannot find.
    await context.journal.append(history, record)
    context.observe(
        LeafIssued(
            at=now,
            epoch=signing.epoch,
            ca=signing.sha256,
            name=workload.name,
            names=names,
            serial=made.serial,
            not_after=not_after(made.leaf),
            who=order.who,
            reason=order.reason,
        )
    )
    return made
