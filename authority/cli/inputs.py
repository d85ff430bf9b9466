"""What commands share: the configuration, files that arguments name, access to the API, and complaints."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from authority.api.address import ADDRESS_FILE
from authority.api.token_files import TOKENS, read_token
from authority.api.tokens import TokenRole
from authority.cli.api_client import ApiAccess, ApiError
from authority.cli.parser import CONFIG_VARIABLE, Arguments, WrongInput
from authority.config.load import AuthorityConfig, load
from authority.pki.control_ca import read_control_certificate
from tidemark.certificates import to_pem


def complain(status: int, *sentences: str) -> int:
    """Write the sentences to stderr, a line each, and return ``status``."""
    sys.stderr.writelines(f"{sentence}\n" for sentence in sentences)
    return status


def configuration(arguments: Arguments, environment: Mapping[str, str]) -> AuthorityConfig:
    """The configuration that the arguments or the environment name. Raises WrongInput, AuthorityConfigError."""
    path = arguments.config or environment.get(CONFIG_VARIABLE)
    if not path:
        raise WrongInput(f"--config: expected the configuration file here or in {CONFIG_VARIABLE}, found neither")
    return load(Path(path), environment)


def read_file(path: Path) -> bytes:
    """The content of a file that an argument names. Raises WrongInput."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise WrongInput(f"{path}: expected a readable file, found {error.strerror}") from None


def api_access(arguments: Arguments, environment: Mapping[str, str]) -> ApiAccess:
    """How to reach the API. What the arguments leave open comes from the configured state directory.

    Raises:
        WrongInput, AuthorityConfigError, KeystoreError: a file is not usable, or there is no configuration.
        ApiError: no authority runs on the state directory.
    """
    token = read_token(arguments.token_file) if arguments.token_file else None
    ca = read_file(arguments.control_ca).decode(errors="replace") if arguments.control_ca else None
    url = arguments.url
    if url is None or ca is None or token is None:
        # Without a configuration there is no token to be found; reading may be open.
        if not (arguments.config or environment.get(CONFIG_VARIABLE)) and url and ca:
            return ApiAccess(url, ca, token)
        config = configuration(arguments, environment)
        url = url or _running_url(config.state)
        ca = ca or to_pem([read_control_certificate(config.state)]).decode()
        token = token or read_token(config.state / TOKENS / TokenRole.OPERATOR)
    return ApiAccess(url, ca, token)


def _running_url(state: Path) -> str:
    path = state / ADDRESS_FILE
    try:
        answer: Any = json.loads(path.read_bytes())
        return str(answer["url"])
    except FileNotFoundError:
        raise ApiError(f"{path}: expected the address of a running authority, found no such file") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ApiError(f"{path}: expected the address of a running authority, found {error}") from None
