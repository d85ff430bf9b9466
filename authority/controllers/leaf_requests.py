"""A leaf that an operator asks for: for a client outside the cluster, or a look by hand. No target shows it.

Signed as the workloads' leaves are, recorded, and only then handed out. Nobody renews it.
"""

from dataclasses import dataclass

from authority.controllers.context import ControllerContext
from authority.issuer.interface import IssuedLeaf, IssuerError
from authority.issuer.serialized import SerializedIssuer
from authority.journal.history import EpochCa, History
from authority.journal.record_types import LeafRecord
from authority.pki.names import LONGEST_NAME, canonical_address, leaf_faults
from authority.rotation.events import LeafIssued
from authority.rotation.leaf_renewal import LeafSubject, checked, leaf_request, signing_ca
from authority.rotation.operator_requests import RotationRefused
from tidemark.certificates import Certificate, LeafRejected, not_after
from tidemark.strict_json import FieldError, Fields

_MOST_NAMES = 200
"""Of one leaf: its record has them all, and OpenBao takes none of a thousand texts."""


@dataclass(frozen=True, slots=True)
class LeafOrder:
    """A leaf that somebody (``who``) wants, and why."""

    workload: LeafSubject
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class ManualLeaf:
    """What came of it; ``signing`` is the CA that signed."""

    signing: EpochCa
    leaf: Certificate
    issued: IssuedLeaf

    @property
    def serial(self) -> str:
        """The leaf's serial number in hex."""
        return f"{self.leaf.serial_number:x}"


def read_workload(fields: Fields) -> LeafSubject:
    """Whom the leaf is for, as a request says it: ``name``, and ``dns`` or ``ip`` or both.

    Raises:
        FieldError: a name that the configuration could not ask for either.
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


async def issue(here: ControllerContext, issuer: SerializedIssuer, history: History, order: LeafOrder) -> ManualLeaf:
    """Sign the leaf with the CA that signs now, and record it.

    Raises:
        RotationRefused: nothing signs.
        IssuerError, JournalError, ClockDiffers: it could not be signed or recorded; nobody gets it.
    """
    now, workload = here.now(), order.workload
    signing = signing_ca(history, now)
    if signing is None:
        raise RotationRefused("leaf: expected a CA that signs, found none at present; status says what is missing")
    here.check_clock()
    await here.timeline.confirm(history)
    issued = await issuer.issue_leaf(signing.intent, leaf_request(workload, signing, here.timing, now))
    try:
        made = ManualLeaf(signing, checked(issued, signing, now), issued)
    except LeafRejected as error:
        raise IssuerError(str(error)) from None
    names = (*workload.dns_names, *workload.ip_addresses)
    record = LeafRecord(now, signing.sha256, workload.name, names, made.serial, order.who, order.reason)
    await here.timeline.append(history, record)
    here.observe(
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
