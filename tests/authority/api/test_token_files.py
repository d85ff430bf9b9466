"""Tokens of the API: their files, and the holders that they stand for."""

import asyncio
from pathlib import Path

import pytest

from authority.api.token_files import create_token, read_token, read_tokens, reload_tokens
from authority.api.tokens import TokenHolder, TokenRole
from authority.pki.keystore import KeystoreError
from tests.harness.waiting import eventually


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    for role in TokenRole:
        create_token(tmp_path, role)
    return tmp_path


def test_created_tokens_are_known_and_not_created_again(tokens: Path) -> None:
    known = read_tokens(tokens)
    agent, operator = (read_token(tokens / "tokens" / role) for role in TokenRole)
    assert agent != operator
    assert known.holder_of(agent) == TokenHolder("agent", TokenRole.AGENT)
    assert known.holder_of(operator) == TokenHolder("operator", TokenRole.OPERATOR)
    for wrong in ("", agent[:-1], agent + "x", agent.swapcase(), "\udcff"):
        assert known.holder_of(wrong) is None
    assert create_token(tokens, TokenRole.AGENT) is None
    assert read_token(tokens / "tokens" / "agent") == agent
    assert agent not in repr(known)


def test_operator_token_with_a_name_of_its_own_is_known(tokens: Path) -> None:
    (tokens / "tokens" / "operator-alice").write_text("a" * 40)
    assert read_tokens(tokens).holder_of("a" * 40) == TokenHolder("operator-alice", TokenRole.OPERATOR)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("operator", b"", r"operator: expected a token of at least 32 ASCII characters, found 0"),
        ("agent", b"short", r"agent: expected a token of at least 32 ASCII characters, found 5"),
        ("agent", b"\xff" * 40, r"agent: expected a readable token, found bytes that are no text"),
        ("guest", b"a" * 40, r"guest: expected a file named 'agent', 'operator' or 'operator-<name>'"),
    ],
)
def test_invalid_token_file_is_refused_by_name(tokens: Path, name: str, content: bytes, complaint: str) -> None:
    (tokens / "tokens" / name).write_bytes(content)
    with pytest.raises(KeystoreError, match=complaint) as caught:
        read_tokens(tokens)
    assert "short" not in str(caught.value)


async def test_reload_adds_and_removes_tokens_and_keeps_them_while_a_file_is_invalid(tokens: Path) -> None:
    known, failures = read_tokens(tokens), list[KeystoreError]()
    alice = tokens / "tokens" / "operator-alice"
    reading = asyncio.create_task(reload_tokens(known, tokens, failures.append, every=0.01))

    async def holder() -> TokenHolder | None:
        return known.holder_of("a" * 40)

    async def reported() -> list[KeystoreError]:
        return failures

    async def is_unknown() -> bool:
        return await holder() is None

    alice.write_text("a" * 40)
    assert await eventually(holder, "alice") == TokenHolder("operator-alice", TokenRole.OPERATOR)
    alice.write_text("short")
    await eventually(reported, "a failure")
    assert await holder() is not None
    for path in (alice, tokens / "tokens" / "operator"):
        path.unlink()
    await eventually(is_unknown, "that the token is unknown")
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


def test_state_without_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeystoreError, match=r"expected a token of agents and one of operators; run 'init' first"):
        read_tokens(tmp_path)
