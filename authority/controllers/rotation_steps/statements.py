"""Makes a statement: issue the CA, compose, sign, verify as an agent would, commit.

Every step is repeated where one fails, and safe to repeat. A statement is published only once it stands in the journal.
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
    """A statement that stands in the journal."""

    statement: Statement
    digest: str

    seconds: float
    """When the statement was committed, by the event loop's clock."""


class StatementMaker:
    """Makes statements, one at a time. Methods raise STEP_ERRORS, as ``StepFailures`` lists them."""

    def __init__(
        self,
        context: ControllerContext,
        issuer: SerializedIssuer,
        signer: StatementSigner,
        *,
        include_root: bool,
    ) -> None:
        self._context = context
        self._issuer = issuer
        self._signer = signer
        self._include_root = include_root

    async def roots(self) -> tuple[Certificate, ...]:
        """The roots that bundles carry."""
        return await self._issuer.roots() if self._include_root else ()

    async def prepare(self, history: History, work: Prepare, who: str = "", reason: str = "") -> CommittedStatement:
        """Commit a statement with a new CA; ``who`` asked for it, "" where the schedule does."""
        self._context.check_clock()
        began = asyncio.get_running_loop().time()
        added, roots = await self._issue(history, work), await self.roots()
        now = self._context.now()  # read only now: making a key may have taken seconds
        contents = StatementContents(
            cause=work.cause,
            clock=self._context.clock,
            cas=(added, *surviving(history, now)),
            roots=roots,
            withdrawn=still_withdrawn(history, now),
        )
        committed = await self._commit(history, contents, work.ca_id, who, reason)
        self._report_prepared(work, committed, began)
        return committed

    async def remove_anchors(self, history: History, work: RemoveAnchors) -> CommittedStatement:
        """Commit a statement without withdrawn CAs, and with the new CA that an urgent withdrawal brings."""
        began = asyncio.get_running_loop().time()
        without = frozenset(ca.sha256 for ca in work.cas)
        added = (await self._issue(history, work.added, without),) if work.added else ()
        roots, now = await self.roots(), self._context.now()
        cas = (*added, *surviving(history, now, without))
        contents = StatementContents(
            cause=work.cause,
            clock=self._context.clock if added else self._clock_of(history, cas),
            cas=cas,
            roots=roots,
            withdrawn=still_withdrawn(history, now, without),
            due=work.due,
        )
        # One statement may remove several CAs, and names one request: each withdrawal has a record of its own.
        withdrawal = next((ca.withdrawal for ca in work.cas if ca.withdrawal), None)
        who, reason = (withdrawal.who, withdrawal.reason) if withdrawal else ("", "")
        committed = await self._commit(history, contents, work.added.ca_id if work.added else "", who, reason)
        if work.added is not None:
            self._report_prepared(work.added, committed, began)
        self._context.observe(
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
        """The clock that the first of these CAs was made under: the statement counts its epoch by that clock."""
        first = history.find(fingerprint(cas[0].certificate)) if cas else None
        return first.clock if first else self._context.clock

    async def _issue(self, history: History, work: Prepare, without: Collection[str] = ()) -> BundleMember:
        # Both checks come before the issuer makes a CA: a CA that no statement can take up would be an orphan.
        carried, roots = surviving(history, self._context.now(), without), await self.roots()
        check_room(len(carried) + 1, len(roots))
        await self._context.journal.confirm(history)
        request = CaRequest(
            ca_id=work.ca_id,
            trust_domain=self._context.trust.trust_domain,
            epoch=work.epoch,
            not_before=self._context.now() - self._context.timing.tolerance_seconds,
            not_after=self._context.clock.expiry(work.epoch),
        )
        return BundleMember(work.epoch, await self._issuer.issue_ca(request))

    async def _commit(
        self, history: History, contents: StatementContents, ca_id: str, who: str, reason: str
    ) -> CommittedStatement:
        trust, now = self._context.trust, self._context.now()
        draft = compose(trust.trust_domain, contents, history.newest, now)
        bundle = Bundle(draft.ca, bytes(await self._signer.sign(draft.statement.text())))
        # Verified as agents would, and before the commit: every statement in the journal is published.
        verified = check(bundle, trust, history.newest, now)
        await self._context.journal.append(history, StatementRecord(now, ca_id, bundle, who, reason))
        return CommittedStatement(draft.statement, verified.digest, asyncio.get_running_loop().time())

    def _report_prepared(self, work: Prepare, committed: CommittedStatement, began: float) -> None:
        statement = committed.statement
        self._context.observe(
            Prepared(
                at=statement.issued_at,
                sequence=statement.sequence,
                digest=committed.digest,
                cause=statement.cause,
                epoch=work.epoch,
                ca=statement.anchors[0].sha256,
                seconds=committed.seconds - began,
            )
        )
