"""The history in Kubernetes: an immutable Secret for every published statement, kept as long as its epoch's CA.

A CA and its key are deleted an epoch after the CA's expiry, and so are the statements that were published with it
first. "Now" is the time at which the newest statement was signed: a wrong clock deletes nothing.
"""

import re

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Secret

from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.errors import KubernetesError, ObjectExists
from authority.kubernetes.secrets import MANAGED, bundle_in, bundle_secret
from authority.kubernetes.selection import Selection
from authority.publishers.interface import PublishError, PublishOutcome
from tidemark.bundle import Bundle, Statement, StatementError
from tidemark.verify import VerifiedBundle

HISTORY_LABEL = ("tidemark.io/history", "bundle")

_NAME = re.compile(r"nats-ca-bundle-epoch-(?P<epoch>\d{1,16})-(?P<sequence>\d{1,16})")


class BundleHistory:
    """Records what was published, in the authority's own namespace."""

    def __init__(self, client: KubernetesClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def record(self, bundle: VerifiedBundle) -> PublishOutcome:
        """Create the bundle's Secret where it is missing, and delete those of past epochs. Raises PublishError."""
        name = history_name(bundle.statement)
        try:
            recorded = Selection(Secret, self._namespace, labels=(HISTORY_LABEL,))
            found = (await self._client.list(recorded, lambda secret: (_name(secret), bundle_in(secret)))).items
            if name not in dict(found):
                metadata = ObjectMeta(name=name, namespace=self._namespace, labels=dict([MANAGED, HISTORY_LABEL]))
                secret = bundle_secret(metadata, bundle, type="Opaque")
                secret.immutable = True
                await self._client.create(secret, self._namespace)
            for old, contents in found:
                if old != name and is_past(old, contents, bundle.statement):
                    await self._client.delete(Secret, old, self._namespace)
        except ObjectExists:
            raise PublishError(
                f"secret {self._namespace}/{name}: expected this name to be free for the history, found a Secret "
                f"without our label there; delete it"
            ) from None
        except KubernetesError as error:
            raise PublishError(str(error)) from None
        return PublishOutcome.UNCHANGED


def _name(secret: Secret) -> str:
    return (secret.metadata.name if secret.metadata is not None else None) or ""


def history_name(statement: Statement) -> str:
    """``nats-ca-bundle-epoch-<N>-<sequence>``."""
    return f"nats-ca-bundle-epoch-{statement.epoch}-{statement.sequence}"


def is_past(name: str, bundle: Bundle | None, newest: Statement) -> bool:
    """Whether the statement of this Secret is no longer needed once ``newest`` is published; pure.

    A Secret that does not parse goes when the epoch in its name, counted by the present clock, is past. A Secret with
    a name of another form is never past.
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
