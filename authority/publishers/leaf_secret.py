"""A leaf store in a Secret of type ``kubernetes.io/tls``."""

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Secret

from authority.issuer.interface import IssuedLeaf
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.errors import KubernetesError
from authority.kubernetes.nudge import Nudge
from authority.kubernetes.secrets import MANAGED, check_ours, content, encoded
from authority.publishers.interface import PublishError
from tidemark.bundle import KEY_FILE, LEAF_FILE
from tidemark.certificates import LeafRejected, parse_leaf

_TYPE = "kubernetes.io/tls"


class KubernetesLeafStore:
    """Implements ``LeafStore``, for one Secret.

    A write is over the version that was read last: what another program has written since stays, and is read again.
    """

    def __init__(self, client: KubernetesClient, namespace: str, secret: str, nudge: Nudge | None = None) -> None:
        self.name = f"{namespace}/{secret}"
        self._client = client
        self._namespace = namespace
        self._secret = secret
        self._nudge = nudge
        self._found: Secret | None = None

    async def read(self) -> bytes | None:
        """``tls.crt`` as the Secret shows it; None also where the key beside it is missing or of another leaf."""
        try:
            self._found = await self._client.get(Secret, self._secret, self._namespace)
        except KubernetesError as error:
            raise PublishError(str(error)) from None
        if self._found is None:
            return None
        certificate, key = content(self._found, LEAF_FILE), content(self._found, KEY_FILE)
        try:
            return parse_leaf(certificate or b"", key or b"").certificate_pem
        except LeafRejected:  # no workload could use it: as good as none
            return None

    async def write(self, leaf: IssuedLeaf) -> None:
        """Make the Secret show this leaf."""
        metadata = ObjectMeta(name=self._secret, namespace=self._namespace, labels=dict([MANAGED]))
        data = encoded({LEAF_FILE: leaf.certificate_pem, KEY_FILE: leaf.key_pem})
        # With its type, as an apply creates a Secret that was deleted meanwhile.
        wanted = Secret(metadata=metadata, data=data, type=_TYPE)
        try:
            if self._found is None:
                self._found = await self._client.create(wanted, self._namespace)
            else:
                check_ours(f"secret {self.name}", self._found, _TYPE)
                metadata.resourceVersion = self._found.metadata.resourceVersion if self._found.metadata else None
                self._found = await self._client.apply(wanted, self._namespace)
        except KubernetesError as error:
            raise PublishError(str(error)) from None
        if self._nudge is not None:
            version = self._found.metadata.resourceVersion if self._found.metadata is not None else None
            self._nudge.pods(self._namespace, self._secret, version or "")
