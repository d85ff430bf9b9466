"""The command line: what it takes, and every command but ``run``, which is in ``authority.__main__``."""

import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from authority.api.address import ADDRESS_FILE
from authority.api.token_files import TOKENS, read_token
from authority.api.tokens import TokenRole
from authority.app.provision import initialise, initialise_openbao
from authority.app.trust import trust_of
from authority.cli import bundle_sources, render
from authority.cli.api_client import ApiAccess, ApiClient, ApiError, AuthorityRefused
from authority.cli.bundle_sources import BundleUnreadable
from authority.cli.chain import follow
from authority.cli.parser import (
    CONFIG_VARIABLE,
    DONE,
    NO,
    NO_ANSWER,
    UNUSABLE_STATE,
    WRONG_INPUT,
    Arguments,
    WrongInput,
)
from authority.config.load import AuthorityConfig, AuthorityConfigError, load
from authority.config.warnings import warnings
from authority.errors import StateUnusable
from authority.pki.control_ca import read_control_certificate
from authority.support import atomic_files
from authority.web.listener import ListenError
from tidemark.bundle import KEY_FILE, LEAF_FILE
from tidemark.certificates import to_pem
from tidemark.trust import Trust, TrustError
from tidemark.verify import BundleRejected, Known, verify

Command = Callable[[Arguments, Mapping[str, str]], Awaitable[int]]


async def execute(arguments: Arguments, environment: Mapping[str, str], run: Command) -> int:
    """Do what was asked; returns the exit status, having said on stderr what went wrong. ``run`` is that command."""
    try:
        return await (_COMMANDS | {"run": run})[arguments.command](arguments, environment)
    except AuthorityConfigError as error:
        return complain(WRONG_INPUT, *error.faults)
    except (WrongInput, BundleUnreadable, TrustError, ListenError) as error:
        return complain(WRONG_INPUT, str(error))
    except StateUnusable as error:
        return complain(UNUSABLE_STATE, str(error))
    except AuthorityRefused as error:
        return complain(NO, str(error))
    except ApiError as error:
        return complain(NO_ANSWER, str(error))


def complain(status: int, *sentences: str) -> int:
    """Write these to stderr and return ``status``."""
    sys.stderr.writelines(f"{sentence}\n" for sentence in sentences)
    return status


def configuration(arguments: Arguments, environment: Mapping[str, str]) -> AuthorityConfig:
    """The configuration that the arguments or the environment name. Raises WrongInput, AuthorityConfigError."""
    path = arguments.config or environment.get(CONFIG_VARIABLE)
    if not path:
        raise WrongInput(f"--config: expected the configuration file here or in {CONFIG_VARIABLE}, found neither")
    return load(Path(path), environment)


async def _init(arguments: Arguments, environment: Mapping[str, str]) -> int:
    config, now = configuration(arguments, environment), int(time.time())
    if arguments.openbao and config.openbao is None:
        raise WrongInput("--openbao: expected 'issuer = \"openbao\"' in the configuration, found another issuer")
    parts = initialise(config, now)
    if arguments.openbao:
        parts += await initialise_openbao(config, now)
    comment = "# " if arguments.openbao else ""  # so that all of it can be piped into 'bao policy write tidemark -'
    for part in parts:
        sys.stdout.write(f"{comment}{'made' if part.made else 'kept'}  {part.name:<15} {part.path}\n")
    if arguments.openbao and config.openbao is not None:
        sys.stdout.write(f"\n{config.openbao.layout.policy()}")
    return DONE


async def _check_config(arguments: Arguments, environment: Mapping[str, str]) -> int:
    config = configuration(arguments, environment)
    clock = config.timing.clock
    targets = [f"{len(config.directories)} directories", *(["JetStream"] if config.jetstream else [])]
    targets += ["Kubernetes"] if config.kubernetes else []
    fleet = config.kubernetes.fleet if config.kubernetes else ()
    agents = f"agents' pods in {', '.join(fleet)}" if fleet else f"{len(config.agents)} agents"
    facts = [
        f"good: trust domain {config.trust_domain}",
        f"epochs of {clock.epoch_seconds} s, CAs valid {clock.validity_seconds} s, prepared {clock.prepare_seconds} s "
        f"ahead, leaves valid {config.timing.leaf_seconds} s",
        f"{agents}, {len(config.leaves)} leaves, published to {' and '.join(targets)}",
    ]
    sys.stdout.write("; ".join(facts) + "\n")
    return complain(DONE, *(f"warning: {warning}" for warning in warnings(config)))


async def _trust(arguments: Arguments, environment: Mapping[str, str]) -> int:
    sys.stdout.write((await trust_of(configuration(arguments, environment))).dump())
    return DONE


async def _status(arguments: Arguments, environment: Mapping[str, str]) -> int:
    async with ApiClient(_access(arguments, environment)) as client:
        answer = await client.get("/api/v1/status")
        if answer["withdrawals"]:
            answer |= await client.get("/api/v1/withdrawals")
    if arguments.json:
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    else:
        _console().print(render.status(answer))
    return DONE


async def _rotate(arguments: Arguments, environment: Mapping[str, str]) -> int:
    async with ApiClient(_access(arguments, environment)) as client:
        answer = await client.post("/api/v1/rotate", {"reason": arguments.reason})
    sys.stdout.write(json.dumps(answer) + "\n")
    return DONE


async def _override(arguments: Arguments, environment: Mapping[str, str]) -> int:
    async with ApiClient(_access(arguments, environment)) as client:
        answer = await client.post("/api/v1/override", {"reason": arguments.reason})
    sys.stdout.write(json.dumps(answer) + "\n")
    return DONE


async def _withdraw(arguments: Arguments, environment: Mapping[str, str]) -> int:
    """``rollback`` and ``revoke``: where it is urgent, say what will break and ask before it is done."""
    path = f"/api/v1/{arguments.command}"
    wanted = {"reason": arguments.reason, "ca": arguments.ca, "now": arguments.now}
    async with ApiClient(_access(arguments, environment)) as client:
        if arguments.now:
            prospect = await client.post(path, wanted | {"preview": True})
            sys.stderr.write(render.prospect(prospect) + "\n")
            if not arguments.yes and not _is_confirmed():
                return complain(NO, f"{arguments.command}: expected 'yes', nothing was done")
            wanted["ca"] = prospect["ca"]  # that very one, whatever was made meanwhile
        answer = await client.post(path, wanted)
    for warning in [] if arguments.now else answer["warnings"]:
        sys.stderr.write(f"warning: {warning}\n")
    sys.stdout.write(json.dumps(answer) + "\n")
    return DONE


def _is_confirmed() -> bool:
    sys.stderr.write("Type 'yes' to do it: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip() == "yes"


async def _leaf(arguments: Arguments, environment: Mapping[str, str]) -> int:
    out: Path = arguments.out
    if not arguments.force:
        _check_free(out / LEAF_FILE, out / KEY_FILE)
    wanted = {"name": arguments.name, "dns": arguments.dns, "ip": arguments.ip, "reason": arguments.reason}
    async with ApiClient(_access(arguments, environment)) as client:
        try:
            atomic_files.make_directory(out)
            answer = await client.post("/api/v1/leaf", wanted)
            certificate, key = (answer.pop(name).encode() for name in ("certificate", "key"))
            files = {KEY_FILE: (key, atomic_files.SECRET), LEAF_FILE: (certificate, atomic_files.PUBLIC)}
            atomic_files.write_together(out, files, over=arguments.force)
        except OSError as error:
            raise WrongInput(
                f"{out}: expected to write {LEAF_FILE} and {KEY_FILE} there, found {error.strerror}; mend it and ask "
                f"for another leaf"
            ) from None
    sys.stdout.write(json.dumps(answer) + "\n")
    return DONE


def _check_free(*paths: Path) -> None:
    """Before anything is signed: what was signed is recorded for good. Raises WrongInput."""
    for path in paths:
        if os.path.lexists(path):
            raise WrongInput(f"{path}: expected no such file, found one; --force writes over it")


async def _verify(arguments: Arguments, environment: Mapping[str, str]) -> int:
    if arguments.trust:
        trust = Trust.parse(_read(arguments.trust))
    else:
        trust = await trust_of(configuration(arguments, environment))
    if arguments.chain:
        return await _verify_chain(arguments, environment, trust)
    if arguments.url or not arguments.paths:
        raise WrongInput("verify: expected PATHs to judge (or --chain, which also takes --url), found none")
    result = DONE
    for name, bundle in bundle_sources.read(arguments.paths).items():
        try:
            verified = verify(bundle, trust, Known(), int(time.time()))
        except BundleRejected as error:
            sys.stdout.write(f"{name}: {error}\n")
            result = NO
        else:
            sys.stdout.write(render.verified(name, verified) + "\n")
    return result


async def _verify_chain(arguments: Arguments, environment: Mapping[str, str], trust: Trust) -> int:
    bundles = bundle_sources.read_all(arguments.paths)
    if arguments.url or not arguments.paths:
        async with ApiClient(_access(arguments, environment)) as client:
            bundles |= await bundle_sources.fetch(client)
    chain = follow(bundles, trust)
    sys.stdout.writelines(f"{fault}\n" for fault in chain.faults)
    what = f"{chain.statements} statements, {chain.first} to {chain.last}" if chain.statements else "no statement"
    sys.stdout.write(f"chain: {'broken' if chain.faults else 'good'}: {what}\n")
    return NO if chain.faults else DONE


_COMMANDS: dict[str, Command] = {
    "init": _init,
    "check-config": _check_config,
    "trust": _trust,
    "status": _status,
    "rotate": _rotate,
    "override": _override,
    "rollback": _withdraw,
    "revoke": _withdraw,
    "leaf": _leaf,
    "verify": _verify,
}


def _access(arguments: Arguments, environment: Mapping[str, str]) -> ApiAccess:
    """How to reach the API: what the arguments leave open is taken from the configured state directory."""
    token = read_token(arguments.token_file) if arguments.token_file else None
    ca = _read(arguments.control_ca).decode(errors="replace") if arguments.control_ca else None
    url = arguments.url
    if url is None or ca is None or token is None:
        if not (arguments.config or environment.get(CONFIG_VARIABLE)) and url and ca:
            return ApiAccess(url, ca, token)  # reading may be open
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WrongInput(f"{path}: expected a readable file, found {error.strerror}") from None


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=140)
