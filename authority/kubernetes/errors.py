"""Errors of the Kubernetes API, by what a caller can do about them."""

import httpx2
import msgspec
from lightkube.core.exceptions import ApiError, ConfigError
from lightkube.models.meta_v1 import Status

from authority.errors import StateUnusable

_LONGEST_RETRY_AFTER = 10.0


class KubernetesError(StateUnusable):
    """The API server did not carry a request out; the message names the object, what was found and what to do."""


class ApiServerUnreachable(KubernetesError):
    """No answer, or one that only says that the server is in trouble."""


class KubernetesLoginRefused(KubernetesError):
    """The API server does not know our credentials (any more)."""


class KubernetesPermissionMissing(KubernetesError):
    """The role that the authority is bound to does not allow this."""


class NamespaceTerminating(KubernetesError):
    """Nothing can be created in the namespace any more: it is being deleted."""


class ObjectMissing(KubernetesError):
    """There is no such object, or no such namespace."""


class ObjectExists(KubernetesError):
    """The object to be created exists already."""


class ObjectConflict(KubernetesError):
    """The object has changed since the version that the request names."""


class ResourceVersionExpired(KubernetesError):
    """The server has forgotten the version to continue from: the objects have to be listed again."""


class ObjectNotOurs(KubernetesError):
    """The object cannot be written, or another program writes it; nothing was sent."""


class ApiServerRefused(KubernetesError):
    """The API server understood the request and refused it: its own words are in the message."""


REQUEST_FAILURES = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, msgspec.MsgspecError, ConfigError)
"""What lightkube raises where a request fails; anything else is a fault of the program."""

_BY_CODE: dict[int, tuple[type[KubernetesError], str]] = {
    401: (KubernetesLoginRefused, "the credentials are not (or no longer) accepted; give the authority new ones"),
    403: (KubernetesPermissionMissing, "compare the authority's role with the table in docs/kubernetes.md"),
    404: (ObjectMissing, "there is no such object or namespace"),
    409: (ObjectConflict, "it is read and decided again"),
    410: (ResourceVersionExpired, "it is listed again"),
}


def translate_error(what: str, error: Exception) -> KubernetesError:
    """The error to raise for what lightkube raised; ``what`` names the request."""
    wanted = f"kubernetes: expected to {what}"
    if not isinstance(error, httpx2.HTTPStatusError):
        return ApiServerUnreachable(f"{wanted}, found {type(error).__name__}: {str(error) or 'no answer'}")
    status = error.status if isinstance(error, ApiError) else None
    code = (status.code if status is not None else None) or error.response.status_code
    message = " ".join(((status.message if status is not None else None) or str(error)).split())
    if code == 429 or code >= 500:
        return ApiServerUnreachable(f"{wanted}, found {code}: {message}")
    if code == 403 and "NamespaceTerminating" in _causes(status):
        return NamespaceTerminating(f"{wanted}, found that the namespace is being deleted; it gets nothing any more")
    if code == 409 and status is not None and status.reason == "AlreadyExists":
        return ObjectExists(f"{wanted}, found that it exists")
    kind, advice = _BY_CODE.get(code, (ApiServerRefused, ""))
    return kind(f"{wanted}, found {code}: {message}" + (f"; {advice}" if advice else ""))


def _causes(status: Status | None) -> set[str]:
    causes = status.details.causes if status is not None and status.details is not None else None
    return {cause.reason or "" for cause in causes or ()}


def retry_after(error: Exception) -> float:
    """Seconds that the server asks to be left alone (``Retry-After``), at most ten; 0 where it does not ask."""
    if not isinstance(error, httpx2.HTTPStatusError) or error.response is None:
        return 0.0
    text = error.response.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_RETRY_AFTER) if text.isascii() and text.isdecimal() else 0.0
