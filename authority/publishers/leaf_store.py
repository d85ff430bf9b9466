"""The port for leaf stores: where a workload's leaf certificate and key are written to."""

from typing import Protocol

from authority.issuer.interface import IssuedLeaf


class LeafStore(Protocol):
    """Holds one workload's leaf: a directory or Secret with ``tls.crt`` and ``tls.key``.

    ``write`` switches both files as one and is durable when it returns. The caller retries; both methods may be
    repeated.
    """

    name: str
    """For metrics, logs and status: the target's path or namespace/name."""

    async def read(self) -> bytes | None:
        """``tls.crt`` as the target shows it now, untrusted; None where there is none. Raises PublishError."""

    async def write(self, leaf: IssuedLeaf) -> None:
        """Make the target show this leaf. Raises PublishError."""
