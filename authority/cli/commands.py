"""The command line: what it takes, and every command but ``run``, which is in ``authority.__main__``."""

import argparse
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from authority.api.routes import ADDRESS_FILE, ListenError
from authority.api.tokens import TOKENS, Role, read_token
from authority.app.provision import initialise, initialise_openbao, trust_of
from authority.cli import bundle_sources, render
from authority.cli.api_client import Access, ApiError, Client, Refused
from authority.cli.bundle_sources import NoBundle
from authority.cli.chain import follow
from authority.config.load import AuthorityConfig, ConfigError, load
from authority.config.warnings import warnings
from authority.election.interface import ElectionError
from authority.issuer.interface import IssuerError
from authority.journal.interface import JournalError
from authority.kubernetes.credentials import KubernetesError
from authority.pki.control_ca import read_control_certificate
from authority.pki.keystore import KeystoreError
from authority.signer.interface import SignerError
from authority.support import atomic_files
from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE
from tidemark.certificates import to_pem
from tidemark.trust import Trust, TrustError
from tidemark.verify import BundleRejected, Known, verify

CONFIG_VARIABLE = "TIDEMARK_AUTHORITY_CONFIG"

DONE = 0
NO = 1
WRONG_INPUT = 2
UNUSABLE_STATE = 3
NO_ANSWER = 4

_EXIT_CODES = """\
exit status:
  0  done; what was looked at is good
  1  no: a bundle was refused (verify), the authority refused the request, or run ended by an error
  2  the arguments or the configuration are wrong
  3  the state directory cannot be used: init has not been done, a key does not open
  4  the API gives no answer

environment:
  TIDEMARK_AUTHORITY_CONFIG  the configuration file, where --config is not given
  TIDEMARK_KEY_PASSPHRASE    encrypts the keys at rest (set it for init and for everything after)
  TIDEMARK_OPENBAO_SECRET_ID  secret id of the AppRole login
  TIDEMARK_OPENBAO_TOKEN      a token of OpenBao: the operator's for 'init --openbao'
  TIDEMARK_LOG               'json' for log lines in JSON
"""

Arguments = argparse.Namespace
Command = Callable[[Arguments, Mapping[str, str]], Awaitable[int]]


class WrongInput(Exception):
    """An argument or a file that it names is not usable; the message says which and why."""


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    top = argparse.ArgumentParser(
        prog="python -m authority",
        description="The Tidemark authority: rotates the intermediate CAs of a NATS deployment.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--config", type=Path, metavar="FILE", help=f"the configuration (TOML; or ${CONFIG_VARIABLE})")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", help="run until SIGTERM or SIGINT")
    init = commands.add_parser("init", help="make root, signing key, control CA and tokens; may be repeated")
    init.add_argument(
        "--openbao", action="store_true", help="set OpenBao up, and print the authority's policy (operator's token)"
    )
    commands.add_parser("check-config", help="name every fault of the configuration, and what will bite")
    commands.add_parser("trust", help="print the trust file for the agents")
    status = commands.add_parser("status", help="show where the rotation stands")
    status.add_argument("--json", action="store_true", help="for programs")
    rotate = commands.add_parser("rotate", help="make a new CA now, without waiting for the next epoch")
    rotate.add_argument("--reason", required=True, help="why; it is recorded with who asked")
    override = commands.add_parser("override", help="open the gate of the newest CA that waits for its proofs")
    override.add_argument("--reason", required=True, help="why; it is recorded with who asked")
    rollback = commands.add_parser("rollback", help="take a CA out of use and go back to the one before it")
    revoke = commands.add_parser("revoke", help="take a CA out of use and make a new one in its place")
    for command, default in ((rollback, " (else the newest)"), (revoke, "")):
        command.add_argument("--reason", required=True, help="why; it is recorded with who asked")
        command.add_argument(
            "--ca", required=not default, help=f"the CA, by its epoch or the beginning of its fingerprint{default}"
        )
        command.add_argument("--now", action="store_true", help="leave it out at once; says first what will break")
        command.add_argument("--yes", action="store_true", help="with --now: do not ask")
    leaf = commands.add_parser("leaf", help="get a leaf certificate and its key once, for a client outside the cluster")
    leaf.add_argument("--name", required=True, help="its common name")
    leaf.add_argument("--dns", action="append", default=[], metavar="NAME", help="a DNS name; may be repeated")
    leaf.add_argument("--ip", action="append", default=[], metavar="ADDRESS", help="an IP address; may be repeated")
    leaf.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help=f"where {LEAF_FILE} and {KEY_FILE} are written"
    )
    leaf.add_argument("--force", action="store_true", help="write over files that stand there")
    leaf.add_argument("--reason", required=True, help="why; it is recorded with who asked")
    check = commands.add_parser("verify", help="judge bundles as an agent would, or a chain of them, and say why")
    for command in (status, rotate, override, rollback, revoke, leaf, check):
        command.add_argument("--url", help="the API (else the one that runs on the configured state directory)")
        command.add_argument(
            "--control-ca", type=Path, metavar="FILE", help="the control CA in PEM (else the state directory's)"
        )
        command.add_argument("--token-file", type=Path, metavar="FILE", help="an operator's token (else as above)")
    check.add_argument("--trust", type=Path, metavar="FILE", help="the trust file (else as 'trust' prints it)")
    check.add_argument(
        "--chain",
        action="store_true",
        help="follow each statement to the one before it, past times and all: in a PATH (also a directory of such "
        "PATHs) or, without one or with --url, in what the API holds",
    )
    check.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help=f"a directory with {CA_FILE} and {NOTE_FILE}, one of these two files, or a bundle in JSON",
    )
    return top


async def execute(arguments: Arguments, environment: Mapping[str, str], run: Command) -> int:
    """Do what was asked; returns the exit status, having said on stderr what went wrong. ``run`` is that command."""
    try:
        return await (_COMMANDS | {"run": run})[arguments.command](arguments, environment)
    except ConfigError as error:
        return complain(WRONG_INPUT, *error.faults)
    except (WrongInput, NoBundle, TrustError, ListenError) as error:
        return complain(WRONG_INPUT, str(error))
    except (KeystoreError, SignerError, IssuerError, JournalError, ElectionError, KubernetesError) as error:
        return complain(UNUSABLE_STATE, str(error))
    except Refused as error:
        return complain(NO, str(error))
    except ApiError as error:
        return complain(NO_ANSWER, str(error))


def complain(status: int, *sentences: str) -> int:
    """Write these to stderr and return ``status``."""
    sys.stderr.writelines(f"{sentence}\n" for sentence in sentences)
    return status


def configuration(arguments: Arguments, environment: Mapping[str, str]) -> AuthorityConfig:
    """The configuration that the arguments or the environment name. Raises WrongInput, ConfigError."""
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
    async with Client(_access(arguments, environment)) as client:
        answer = await client.get("/api/v1/status")
        if answer["withdrawals"]:
            answer |= await client.get("/api/v1/withdrawals")
    if arguments.json:
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    else:
        _console().print(render.status(answer))
    return DONE


async def _rotate(arguments: Arguments, environment: Mapping[str, str]) -> int:
    async with Client(_access(arguments, environment)) as client:
        answer = await client.post("/api/v1/rotate", {"reason": arguments.reason})
    sys.stdout.write(json.dumps(answer) + "\n")
    return DONE


async def _override(arguments: Arguments, environment: Mapping[str, str]) -> int:
    async with Client(_access(arguments, environment)) as client:
        answer = await client.post("/api/v1/override", {"reason": arguments.reason})
    sys.stdout.write(json.dumps(answer) + "\n")
    return DONE


async def _withdraw(arguments: Arguments, environment: Mapping[str, str]) -> int:
    """``rollback`` and ``revoke``: where it is urgent, say what will break and ask before it is done."""
    path = f"/api/v1/{arguments.command}"
    wanted = {"reason": arguments.reason, "ca": arguments.ca, "now": arguments.now}
    async with Client(_access(arguments, environment)) as client:
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
    async with Client(_access(arguments, environment)) as client:
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
        async with Client(_access(arguments, environment)) as client:
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


def _access(arguments: Arguments, environment: Mapping[str, str]) -> Access:
    """How to reach the API: what the arguments leave open is taken from the configured state directory."""
    token = read_token(arguments.token_file) if arguments.token_file else None
    ca = _read(arguments.control_ca).decode(errors="replace") if arguments.control_ca else None
    url = arguments.url
    if url is None or ca is None or token is None:
        if not (arguments.config or environment.get(CONFIG_VARIABLE)) and url and ca:
            return Access(url, ca, token)  # reading may be open
        config = configuration(arguments, environment)
        url = url or _running_url(config.state)
        ca = ca or to_pem([read_control_certificate(config.state)]).decode()
        token = token or read_token(config.state / TOKENS / Role.OPERATOR)
    return Access(url, ca, token)


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
