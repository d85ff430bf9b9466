"""Making a statement: issue, compose, sign, verify as an agent would, commit; each step again if one fails.

What fails on the way was never published: only a statement that stands in the journal is.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from authority.controllers.context import ControllerContext
from authority.issuer.interface import CaRequest
from authority.issuer.serialized import SerializedIssuer
from authority.journal.history import History
from authority.journal.record_types import StatementRecord
from authority.rotation.actions import Prepare, RemoveAnchors
from authority.rotation.compose import (
    BundleMember,
    StatementContents,
    check,
    check_room,
    compose,
    still_withdrawn,
    surviving,
)
from authority.rotation.events import AnchorsRemoved, Prepared
from authority.signer.interface import StatementSigner
from tidemark.bundle import Bundle, Statement
from tidemark.certificates import Certificate, fingerprint
from tidemark.epoch import EpochClock


@dataclass(frozen=True, slots=True)
class CommittedStatement:
    """A statement that stands in the journal; ``seconds`` is when that was, by the event loop's clock."""

    statement: Statement
    digest: str
    seconds: float


class StatementMaker:
    """Makes statements for the sequencer, one at a time."""

    def __init__(
        self,
        surroundings: ControllerContext,
        issuer: SerializedIssuer,
        signer: StatementSigner,
        *,
        include_root: bool,
    ) -> None:
        self._here = surroundings
        self._issuer = issuer
        self._signer = signer
        self._include_root = include_root

    async def roots(self) -> tuple[Certificate, ...]:
        """The roots that bundles carry."""
        return await self._issuer.roots() if self._include_root else ()

    async def prepare(self, history: History, wanted: Prepare, who: str = "", reason: str = "") -> CommittedStatement:
        """A statement with a new CA."""
        self._here.check_clock()
        began = asyncio.get_running_loop().time()
        added, roots = await self._issue(history, wanted), await self.roots()
        now = self._here.now()  # making a key may have taken seconds
        contents = StatementContents(
            cause=wanted.cause,
            clock=self._here.clock,
            cas=(added, *surviving(history, now)),
            roots=roots,
            withdrawn=still_withdrawn(history, now),
        )
        committed = await self._commit(history, contents, wanted.intent, who, reason)
        self._tell_prepared(wanted, committed, began)
        return committed

    async def leave_out(self, history: History, work: RemoveAnchors) -> CommittedStatement:
        """A statement without withdrawn CAs, and with the new one that an urgent withdrawal brings."""
        began = asyncio.get_running_loop().time()
        without = frozenset(ca.sha256 for ca in work.cas)
        added = (await self._issue(history, work.added, without),) if work.added else ()
        roots, now = await self.roots(), self._here.now()
        cas = (*added, *surviving(history, now, without))
        contents = StatementContents(
            cause=work.cause,
            clock=self._here.clock if added else self._clock_of(history, cas),
            cas=cas,
            roots=roots,
            withdrawn=still_withdrawn(history, now, without),
            due=work.due,
        )
        asked = next((ca.withdrawal for ca in work.cas if ca.withdrawal), None)
        who, reason = (asked.who, asked.reason) if asked else ("", "")
        committed = await self._commit(history, contents, work.added.intent if work.added else "", who, reason)
        if work.added is not None:
            self._tell_prepared(work.added, committed, began)
        self._here.observe(
            AnchorsRemoved(
                at=committed.statement.issued_at,
                sequence=committed.statement.sequence,
                digest=committed.digest,
                cause=work.cause,
                cas=tuple(ca.sha256 for ca in work.cas),
            )
        )
        return committed

    def _clock_of(self, history: History, cas: Sequence[BundleMember]) -> EpochClock:
        """The clock that the first of these was made under: by it the statement counts."""
        first = history.find(fingerprint(cas[0].certificate)) if cas else None
        return first.clock if first else self._here.clock

    async def _issue(self, history: History, wanted: Prepare, without: Collection[str] = ()) -> BundleMember:
        carried, roots = surviving(history, self._here.now(), without), await self.roots()
        check_room(len(carried) + 1, len(roots))
        await self._here.timeline.confirm(history)
        request = CaRequest(
            intent=wanted.intent,
            trust_domain=self._here.trust.trust_domain,
            epoch=wanted.epoch,
            not_before=self._here.now() - self._here.timing.tolerance_seconds,
            not_after=self._here.clock.expiry(wanted.epoch),
        )
        return BundleMember(wanted.epoch, await self._issuer.issue_ca(request))

    async def _commit(
        self, history: History, contents: StatementContents, intent: str, who: str, reason: str
    ) -> CommittedStatement:
        trust, now = self._here.trust, self._here.now()
        draft = compose(trust.trust_domain, contents, history.newest, now)
        bundle = Bundle(draft.ca, bytes(await self._signer.sign(draft.statement.text())))
        verified = check(bundle, trust, history.newest, now)
        await self._here.timeline.append(history, StatementRecord(now, intent, bundle, who, reason))
        return CommittedStatement(draft.statement, verified.digest, asyncio.get_running_loop().time())

    def _tell_prepared(self, wanted: Prepare, committed: CommittedStatement, began: float) -> None:
        statement = committed.statement
        self._here.observe(
            Prepared(
                at=statement.issued_at,
                sequence=statement.sequence,
                digest=committed.digest,
                cause=statement.cause,
                epoch=wanted.epoch,
                ca=statement.anchors[0].sha256,
                seconds=committed.seconds - began,
            )
        )
