"""``--once``: one look at the sources, one verified set in place, for init containers and scripts. No workload is told.

The sequencer of this way of running, as the cycle is of the other; the steps are the same.
"""

from enum import IntEnum

from agent import log
from agent.clocks import Clocks
from agent.loop.cycle import FIRST_WORD, AnnouncementSource, judge
from agent.selection.select import Choice
from agent.sources.mounts import SourceSnapshot
from agent.store.output_directory import InstallFailed
from agent.store.set_store import SetStore
from tidemark.trust import Trust, TrustError
from tidemark.verify import Mark, Reason


class OnceOutcome(IntEnum):
    """What came of it, as an exit status."""

    IN_PLACE = 0
    NOT_WRITTEN = 1
    NOTHING_IN_PLACE = 3
    KEPT = 4


async def install_once(
    sighting: SourceSnapshot, holdings: SetStore, announcements: AnnouncementSource | None, clocks: Clocks
) -> OnceOutcome:
    """Install the highest verified set that the sources show, unless it is in place; log what was done, or why not."""
    try:
        holdings.restore(trust := _trust(sighting))
        choice = judge(sighting, (), trust, holdings, clocks.now())
        if announcements is not None and choice.trust_set is not None:
            heard = await announcements.first(holdings.stage(choice.trust_set), FIRST_WORD)
            choice = judge(sighting, [heard] if heard else [], trust, holdings, clocks.now())
        return _install(choice, holdings)
    except TrustError as error:
        log.error("trust_unusable", detail=str(error))
        return OnceOutcome.NOTHING_IN_PLACE
    except InstallFailed as error:
        log.error("install_failed", detail=str(error))
        return OnceOutcome.NOT_WRITTEN


def _install(choice: Choice, holdings: SetStore) -> OnceOutcome:
    refusals = [refusal for refusal in choice.refused if refusal.reason != Reason.SUPERSEDED]
    for refusal in [*refusals, *([choice.leaf_refused] if choice.leaf_refused else [])]:
        log.warning("refused", reason=refusal.reason, detail=refusal.detail, source=refusal.source.value)
    if choice.adopted is not None:
        holdings.note_verified(Mark(choice.adopted.sequence, choice.adopted.digest))
    holdings.note_shown(choice.mounted)
    trust_set, placed = choice.trust_set, holdings.installed
    if trust_set is not None and (placed is None or placed.trust_set.key != trust_set.key):
        placed = holdings.place(trust_set)
    holdings.keep()
    holdings.tidy()
    if placed is None:
        return OnceOutcome.NOTHING_IN_PLACE
    log.event("in_place", sequence=placed.trust_set.mark.sequence, directory=placed.directory)
    newest = choice.adopted is not None or not refusals
    return OnceOutcome.IN_PLACE if newest and choice.leaf_refused is None else OnceOutcome.KEPT


def _trust(sighting: SourceSnapshot) -> Trust:
    look = sighting.trust
    if look.files is None:
        raise TrustError(look.fault.detail if look.fault else "expected a trust file, found none")
    (content,) = look.files.values()
    return Trust.parse(content)
