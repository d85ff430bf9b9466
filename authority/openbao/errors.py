"""Errors of OpenBao, by what a caller can do about them."""


class OpenBaoError(Exception):
    """OpenBao did not carry a request out; the message names the request, what was found and what to do."""


class OpenBaoUnreachable(OpenBaoError):
    """No answer, or one that only says that the server is in trouble."""


class OpenBaoSealed(OpenBaoUnreachable):
    """The server runs and is sealed: an operator has to unseal it."""


class OpenBaoLoginRefused(OpenBaoError):
    """The credentials are not (or no longer) accepted."""


class TokenRevoked(OpenBaoError):
    """The token is revoked, expired or unknown, and there are no credentials for another login."""


class OpenBaoPermissionMissing(OpenBaoError):
    """The token's policies do not allow ``capability`` on ``path``."""

    def __init__(self, message: str, path: str, capability: str) -> None:
        super().__init__(message)
        self.path = path
        self.capability = capability


class CasConflict(OpenBaoError):
    """KV v2: the secret has another version than the one that was to be replaced."""


class RequestRefused(OpenBaoError):
    """OpenBao understood the request and refused it: its own words are in the message."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
