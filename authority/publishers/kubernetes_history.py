"""The history in Kubernetes: a Secret for every statement that was published, kept as long as its epoch's CA; pure.

A CA and its key are deleted an epoch after its expiry, and so is what was published with it first. That is counted by
the time that the newest statement was signed at, so that no clock of the moment can delete anything.
"""

import re

from tidemark.bundle import Bundle, Statement, StatementError

HISTORY_LABEL = ("tidemark.io/history", "bundle")

_NAME = re.compile(r"nats-ca-bundle-epoch-(?P<epoch>\d{1,16})-(?P<sequence>\d{1,16})")


def history_name(statement: Statement) -> str:
    """``nats-ca-bundle-epoch-<N>-<sequence>``."""
    return f"nats-ca-bundle-epoch-{statement.epoch}-{statement.sequence}"


def is_past(name: str, bundle: Bundle | None, newest: Statement) -> bool:
    """Whether the statement of this Secret is no longer needed once ``newest`` is published.

    A Secret that does not read goes when its name's epoch, counted by the present clock, is past; one with another name
    than ours never does.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return False
    kept_until = _kept_until(bundle)
    if kept_until is None:
        kept_until = newest.clock.expiry(int(found["epoch"])) + newest.clock.epoch_seconds
    return int(found["sequence"]) < newest.sequence and kept_until <= newest.issued_at


def _kept_until(bundle: Bundle | None) -> int | None:
    if bundle is None:
        return None
    try:
        statement, _ = bundle.unverified_statement()
    except StatementError:
        return None
    return statement.expires_at + statement.clock.epoch_seconds
