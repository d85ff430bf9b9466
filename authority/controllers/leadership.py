"""Leading and following: the sequencers run while this replica leads, and at no other time; the journal is followed."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Never

from authority.controllers.context import Surroundings
from authority.election.interface import Election
from authority.journal.interface import JournalError
from authority.rotation.events import Failed, Following, Leading, Step

FOLLOW_SECONDS = 2.0
"""A replica that follows is at most so far behind the journal."""

Task = Callable[[], Coroutine[Any, Any, None]]


async def lead(election: Election, here: Surroundings, sequencers: Mapping[str, Task], won: Callable[[], None]) -> None:
    """Whenever this replica leads: ``won``, then the sequencers, until it leads no longer; until cancelled."""
    while True:
        await election.won()
        won()
        here.observe(Leading(here.now(), election.me.name))
        await until(election.lost(), sequencers)
        leader = election.leader
        here.observe(Following(here.now(), election.me.name, leader.name if leader else ""))


async def follow(election: Election, here: Surroundings) -> None:
    """Read the journal while another replica leads, so that what is asked here is answered; until cancelled."""
    while True:
        if not election.leads:
            try:
                await here.timeline.read()
            except JournalError as error:
                here.observe(Failed(here.now(), Step.JOURNAL, "", str(error), FOLLOW_SECONDS))
        await asyncio.sleep(min(FOLLOW_SECONDS, here.heartbeat))


async def until(end: Awaitable[object], tasks: Mapping[str, Task]) -> None:
    """Run all of these until ``end`` has come. One that fails, or ends by itself, ends all of them with its error."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(_for_ever(name, task), name=name) for name, task in tasks.items()]
        await end
        for task in running:
            task.cancel()


async def _for_ever(name: str, task: Task) -> Never:
    await task()
    raise RuntimeError(f"task {name!r}: expected it to run until it is stopped, found that it ended")
