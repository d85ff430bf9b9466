"""The command line's arguments and exit codes."""

import argparse
from pathlib import Path

from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE

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
