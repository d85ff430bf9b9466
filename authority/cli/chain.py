"""The chain of statements: each statement names the digest of the previous one, which shows gaps and forks; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from tidemark.bundle import NO_PREVIOUS, Bundle
from tidemark.trust import Trust
from tidemark.verify import BundleRejected, VerifiedBundle, reopen


@dataclass(frozen=True, slots=True)
class StatementChain:
    """The result of following a chain."""

    first: int
    """Sequence of the first statement, 0 without any."""
    last: int
    """Sequence of the last statement, 0 without any."""
    statements: int
    """The number of statements."""
    faults: tuple[str, ...]
    """Sentences, each of which names the bundles that it is about."""


@dataclass(frozen=True, slots=True)
class _Link:
    name: str
    sequence: int
    digest: str
    previous: str


def follow(bundles: Mapping[str, Bundle], trust: Trust) -> StatementChain:
    """Follow ``previous`` through these bundles, given by name in any order.

    Times are not checked, since old statements have expired. Two copies of one bundle count once.
    """
    faults: list[str] = []
    links: dict[int, _Link] = {}
    for name, bundle in bundles.items():
        try:
            verified = reopen(bundle, trust)
        except BundleRejected as error:
            faults.append(f"{name}: {error}")
            continue
        link = _link(name, verified)
        known = links.setdefault(link.sequence, link)
        if known.digest != link.digest:
            faults.append(
                f"fork: expected one statement {link.sequence}, found two: {known.digest} ({known.name}) and "
                f"{link.digest} ({link.name}); another program signs with your key, or two authorities did"
            )
    chain = [links[sequence] for sequence in sorted(links)]
    digests = {link.digest: link for link in chain}
    if chain and chain[0].sequence == 1 and chain[0].previous != NO_PREVIOUS:
        faults.append(f"{chain[0].name}: statement 1: expected no previous one, found {chain[0].previous}")
    for before, link in pairwise(chain):
        if link.previous != before.digest:
            faults.append(_broken(before, link, digests.get(link.previous)))
    ends = (chain[0].sequence, chain[-1].sequence) if chain else (0, 0)
    return StatementChain(*ends, len(chain), tuple(faults))


def _link(name: str, verified: VerifiedBundle) -> _Link:
    return _Link(name, verified.sequence, verified.digest, verified.statement.previous)


def _broken(before: _Link, link: _Link, named: _Link | None) -> str:
    """What is wrong between two statements that should follow each other."""
    if named is not None:
        return (
            f"fork: {link.name}: statement {link.sequence}: expected to follow statement {before.sequence} "
            f"({before.name}), found that it follows statement {named.sequence} ({named.name}) as that one does"
        )
    if link.sequence > before.sequence + 1:
        missing = f"{before.sequence + 1}" + (f" to {link.sequence - 1}" if link.sequence > before.sequence + 2 else "")
        return (
            f"gap: expected statement {missing} between {before.sequence} ({before.name}) and {link.sequence} "
            f"({link.name}), found none; look for it in the history, or in a backup of the journal"
        )
    return (
        f"wrong previous: {link.name}: statement {link.sequence}: expected {before.digest} (statement "
        f"{before.sequence}, {before.name}), found {link.previous}"
    )
