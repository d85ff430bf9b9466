"""The command line's arguments and exit codes."""

import argparse
from pathlib import Path
from typing import Any

from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE

CONFIG_VARIABLE = "TIDEMARK_AUTHORITY_CONFIG"

DONE = 0

REFUSED = 1

WRONG_INPUT = 2

UNUSABLE_STATE = 3

NO_ANSWER = 4

_EXIT_CODES = f"""\
exit status:
  0  done; what was checked is good
  1  no: 'verify' refused a bundle, the authority refused the request, or 'run' ended with an error
  2  the arguments or the configuration are wrong
  3  the state cannot be used: 'init' has not run, a key does not open, OpenBao or Kubernetes refuses
  4  the API gives no answer

environment:
  {CONFIG_VARIABLE}   the configuration file, unless --config names one
  TIDEMARK_KEY_PASSPHRASE     encrypts the keys at rest; set it for 'init' and for every command after that
  TIDEMARK_ADVERTISE          the host by which other replicas reach this one, in place of api.advertise
  TIDEMARK_OPENBAO_SECRET_ID  the secret id of the AppRole login
  TIDEMARK_OPENBAO_TOKEN      a token of OpenBao: the operator's for 'init --openbao'
  TIDEMARK_LOG                'json' writes log lines as JSON

'COMMAND --help' describes the arguments of a command.
"""

Arguments = argparse.Namespace


class WrongInput(Exception):
    """An argument or a file that it names is not usable; the message says which and why."""


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m authority",
        description="The Tidemark authority: rotates the intermediate CAs of a NATS deployment.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "--config", type=Path, metavar="FILE", help=f"the configuration in TOML (default: ${CONFIG_VARIABLE})"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _command(commands, "run", "run the authority until SIGTERM or SIGINT")
    init = _command(
        commands,
        "init",
        "create root CA, signing key, control CA and tokens; creates what is missing, replaces nothing",
    )
    init.add_argument(
        "--openbao",
        action="store_true",
        help="set up OpenBao with the operator's token, and print the policy that the authority needs",
    )
    _command(
        commands, "check-config", "report every fault of the configuration, and warn of settings that cause trouble"
    )
    _command(commands, "trust", "print the trust file for the agents")
    _add_status(commands)
    _add_rotate_and_override(commands)
    _add_withdrawals(commands)
    _add_leaf(commands)
    _add_verify(commands)
    return top


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    """A command with the same sentence in the list of commands and in its own help."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    return command


def _add_status(commands: Any) -> None:
    status = _command(commands, "status", "show the state of the rotation, the fleet and the publishers")
    status.add_argument("--json", action="store_true", help="print JSON, for programs")
    _add_access(status)


def _add_rotate_and_override(commands: Any) -> None:
    rotate = _command(commands, "rotate", "make a new CA now, without waiting for the next epoch")
    override = _command(commands, "override", "open the gate of the newest CA that waits for proofs")
    for command in (rotate, override):
        _add_reason(command)
        _add_access(command)


def _add_withdrawals(commands: Any) -> None:
    rollback = _command(commands, "rollback", "withdraw a CA and go back to the CA before it")
    revoke = _command(commands, "revoke", "withdraw a CA and make a new one in its place")
    for command, default in ((rollback, " (default: the newest)"), (revoke, "")):
        _add_reason(command)
        command.add_argument(
            "--ca", required=not default, help=f"the CA, by its epoch or the beginning of its fingerprint{default}"
        )
        command.add_argument(
            "--now",
            action="store_true",
            help="remove the CA at once, without waiting for proofs; first prints what will break, and asks",
        )
        command.add_argument("--yes", action="store_true", help="with --now: do not ask")
        _add_access(command)


def _add_leaf(commands: Any) -> None:
    leaf = _command(commands, "leaf", "issue one leaf certificate with its key, for a client outside the cluster")
    leaf.add_argument("--name", required=True, help="the common name")
    leaf.add_argument("--dns", action="append", default=[], metavar="NAME", help="a DNS name; may be repeated")
    leaf.add_argument("--ip", action="append", default=[], metavar="ADDRESS", help="an IP address; may be repeated")
    leaf.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help=f"the directory for {LEAF_FILE} and {KEY_FILE}"
    )
    leaf.add_argument("--force", action="store_true", help="replace files that exist")
    _add_reason(leaf)
    _add_access(leaf)


def _add_verify(commands: Any) -> None:
    verify = _command(commands, "verify", "verify bundles as an agent would, and say why a bundle is refused")
    _add_access(verify)
    verify.add_argument(
        "--trust", type=Path, metavar="FILE", help="the trust file (default: the one that 'trust' prints)"
    )
    verify.add_argument(
        "--chain",
        action="store_true",
        help="follow each statement to the one before it, whether or not it has expired; reads the PATHs (a directory "
        "stands for all bundles in it), and the API if there is no PATH or if --url is given",
    )
    verify.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help=f"a directory with {CA_FILE} and {NOTE_FILE}, one of these two files, or a bundle in JSON",
    )


def _add_reason(command: argparse.ArgumentParser) -> None:
    command.add_argument("--reason", required=True, help="why; recorded in the journal with the operator's name")


def _add_access(command: argparse.ArgumentParser) -> None:
    """How to reach the API; the defaults come from the configured state directory."""
    command.add_argument("--url", help="the API's URL (default: the authority that runs on the configured state)")
    command.add_argument(
        "--control-ca", type=Path, metavar="FILE", help="the control CA in PEM (default: the configured state's)"
    )
    command.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="a file with an operator's token (default: the configured state's)",
    )
