"""``--once``: reads the sources once and installs one verified set, for init containers and scripts; no reload.

The only code that puts the steps of this mode in order; the steps are those of the cycle.
"""

from enum import IntEnum

from agent import log
from agent.clocks import Clocks
from agent.loop.adopted_trust import content_of
from agent.loop.candidates import FIRST_ANSWER_SECONDS, AnnouncementSource, judge
from agent.selection.select import Choice
from agent.sources.mounts import SourceSnapshot
from agent.store.output_directory import InstallFailed
from agent.store.set_store import SetStore
from tidemark.trust import Trust, TrustError
from tidemark.verify import Mark, Reason


class OnceOutcome(IntEnum):
    """The exit status of ``--once``."""

    IN_PLACE = 0
    """The highest verified set that the sources show is in place."""
    NOT_WRITTEN = 1
    """The output directory could not be written."""
    NOTHING_IN_PLACE = 3
    """No verified set is in place."""
    KEPT = 4
    """A verified set is in place, but a candidate was refused."""


async def install_once(
    snapshot: SourceSnapshot, store: SetStore, announcements: AnnouncementSource | None, clocks: Clocks
) -> OnceOutcome:
    """Install the highest verified set that the sources show, unless it is in place; log the result."""
    try:
        trust = Trust.parse(content_of(snapshot.trust))
        store.restore(trust)
        choice = judge(snapshot, (), trust, store, clocks.now())
        if announcements is not None and choice.trust_set is not None:
            # The mount's set is staged to connect with: the pod may have no other one yet.
            first = await announcements.first(store.stage(choice.trust_set), FIRST_ANSWER_SECONDS)
            choice = judge(snapshot, [first] if first else [], trust, store, clocks.now())
        return _install(choice, store)
    except TrustError as error:
        log.error("trust_unusable", detail=str(error))
        return OnceOutcome.NOTHING_IN_PLACE
    except InstallFailed as error:
        log.error("install_failed", detail=str(error))
        return OnceOutcome.NOT_WRITTEN


def _install(choice: Choice, store: SetStore) -> OnceOutcome:
    refusals = [refusal for refusal in choice.refused if refusal.reason != Reason.SUPERSEDED]
    for refusal in [*refusals, *([choice.leaf_refused] if choice.leaf_refused else [])]:
        log.warning("refused", reason=refusal.reason, detail=refusal.detail, source=refusal.source.value)
    if choice.adopted is not None:
        store.note_verified(Mark(choice.adopted.sequence, choice.adopted.digest))
    store.note_mounted(choice.mounted)
    trust_set, placed = choice.trust_set, store.installed
    if trust_set is not None and (placed is None or placed.trust_set.key != trust_set.key):
        placed = store.place(trust_set)
    store.save()
    store.finish_install()
    if placed is None:
        return OnceOutcome.NOTHING_IN_PLACE
    log.event("in_place", sequence=placed.trust_set.mark.sequence, directory=placed.directory)
    newest = choice.adopted is not None or not refusals
    return OnceOutcome.IN_PLACE if newest and choice.leaf_refused is None else OnceOutcome.KEPT
