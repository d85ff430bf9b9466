"""Every port's refusal has the one base that the command line knows."""

import pytest

from authority.cli.commands import execute
from authority.cli.parser import UNUSABLE_STATE, Arguments
from authority.election.interface import ElectionError
from authority.errors import StateUnusable
from authority.issuer.interface import IssuerError
from authority.journal.interface import JournalConflict
from authority.kubernetes.errors import ApiServerUnreachable
from authority.pki.keystore import KeystoreError
from authority.signer.interface import SignerError


@pytest.mark.parametrize(
    "kind", [KeystoreError, SignerError, IssuerError, JournalConflict, ElectionError, ApiServerUnreachable]
)
async def test_unusable_state_of_every_port_ends_a_command_with_status_3(
    kind: type[StateUnusable], capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(_: Arguments, __: object) -> int:
        raise kind("store: expected this, found that")

    assert await execute(Arguments(command="run"), {}, run) == UNUSABLE_STATE
    assert capsys.readouterr().err == "store: expected this, found that\n"
