"""Leading and following: the sequencers run while this replica leads, and at no other time; the journal is followed."""

import asyncio
from collections.abc import Callable, Mapping

from authority.controllers.context import ControllerContext
from authority.election.interface import Election
from authority.journal.interface import JournalError
from authority.rotation.actions import Step
from authority.rotation.events import Following, Leading, StepFailed
from authority.support.tasks import Task, until

FOLLOW_SECONDS = 2.0
"""A replica that follows is at most so far behind the journal."""


async def lead(
    election: Election, here: ControllerContext, sequencers: Mapping[str, Task], won: Callable[[], None]
) -> None:
    """Whenever this replica leads: ``won``, then the sequencers, until it leads no longer; until cancelled."""
    while True:
        await election.won()
        won()
        here.observe(Leading(here.now(), election.me.name))
        await until(election.lost(), sequencers)
        leader = election.leader
        here.observe(Following(here.now(), election.me.name, leader.name if leader else ""))


async def follow(election: Election, here: ControllerContext) -> None:
    """Read the journal while another replica leads, so that what is asked here is answered; until cancelled."""
    while True:
        if not election.leads:
            try:
                await here.timeline.read()
            except JournalError as error:
                here.observe(StepFailed(here.now(), Step.JOURNAL, "", str(error), FOLLOW_SECONDS))
        await asyncio.sleep(min(FOLLOW_SECONDS, here.heartbeat))
