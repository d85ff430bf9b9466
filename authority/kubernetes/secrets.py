"""What our Secrets contain, and which Secrets the authority may not write; pure."""

import base64
from typing import Any

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Secret

from authority.kubernetes.errors import ObjectNotOurs
from tidemark.bundle import CA_FILE, NOTE_FILE, Bundle
from tidemark.verify import VerifiedBundle

MANAGED = ("app.kubernetes.io/managed-by", "tidemark")

SEQUENCE_ANNOTATION = "tidemark.io/sequence"

CERT_MANAGER = "cert-manager.io/certificate-name"
"""The annotation of Secrets that cert-manager writes."""


def bundle_secret(metadata: ObjectMeta, bundle: VerifiedBundle, **more: Any) -> Secret:
    """A Secret that holds a bundle, with its sequence as an annotation for people."""
    metadata.annotations = {SEQUENCE_ANNOTATION: str(bundle.sequence)}
    return Secret(metadata=metadata, data=encoded({CA_FILE: bundle.bundle.ca, NOTE_FILE: bundle.bundle.note}), **more)


def bundle_in(secret: Secret) -> Bundle | None:
    """The bundle that a Secret holds, untrusted; None where it holds none."""
    ca, note = content(secret, CA_FILE), content(secret, NOTE_FILE)
    return Bundle(ca, note) if ca is not None and note is not None else None


def encoded(files: dict[str, bytes]) -> dict[str, str]:
    """Files as a Secret's ``data`` has them."""
    return {name: base64.b64encode(data).decode() for name, data in files.items()}


def content(secret: Secret, name: str) -> bytes | None:
    """A file of a Secret; None where it has none of this name."""
    text = (secret.data or {}).get(name)
    return None if text is None else base64.b64decode(text)


def check_ours(target: str, found: Secret, kind: str) -> None:
    """Refuse to write over a Secret that cannot be changed, or that another program writes.

    Raises:
        ObjectNotOurs: names the Secret and what to do.
    """
    if (found.type or "Opaque") != kind:
        raise ObjectNotOurs(
            f"{target}: expected a Secret of type {kind}, found {found.type}; a Secret's type cannot be changed: give "
            f"that one another name, or delete it and it is written again"
        )
    if found.immutable:
        raise ObjectNotOurs(
            f"{target}: expected a Secret that can be changed, found it immutable; delete it and it is written again"
        )
    annotations = (found.metadata.annotations if found.metadata is not None else None) or {}
    if CERT_MANAGER in annotations:
        raise ObjectNotOurs(
            f"{target}: expected to be its only writer, found cert-manager's Certificate "
            f"{annotations[CERT_MANAGER]!r}; delete that, or give one of the two another name"
        )
