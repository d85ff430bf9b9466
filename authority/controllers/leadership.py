"""Runs the controllers while this replica leads, and only then; follows the journal while another replica leads."""

import asyncio
from collections.abc import Callable, Mapping

from authority.controllers.context import ControllerContext
from authority.election.interface import Election
from authority.journal.interface import JournalError
from authority.rotation.actions import Step
from authority.rotation.events import Following, Leading, StepFailed
from authority.support.tasks import Task, until

FOLLOW_SECONDS = 2.0
"""A replica that follows is at most so far behind the journal, in seconds."""


async def lead(
    election: Election, context: ControllerContext, controllers: Mapping[str, Task], won: Callable[[], None]
) -> None:
    """Whenever this replica leads, call ``won`` and run ``controllers`` until it leads no longer; until cancelled."""
    while True:
        await election.won()
        won()
        context.observe(Leading(context.now(), election.me.name))
        await until(election.lost(), controllers)
        leader = election.leader
        context.observe(Following(context.now(), election.me.name, leader.name if leader else ""))


async def follow(election: Election, context: ControllerContext) -> None:
    """Read the journal while another replica leads, so that this replica answers requests too; until cancelled."""
    while True:
        if not election.leads:
            try:
                await context.journal.read()
            except JournalError as error:
                context.observe(StepFailed(context.now(), Step.JOURNAL, "", str(error), FOLLOW_SECONDS))
        await asyncio.sleep(min(FOLLOW_SECONDS, context.heartbeat))
