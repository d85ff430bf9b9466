"""What the targets show at a start: the highest statement among them, above which the journal goes on."""

import asyncio
from collections.abc import Callable, Sequence

from authority.publishers.interface import Publisher, PublishError
from tidemark.trust import Trust
from tidemark.verify import BundleRejected, VerifiedBundle, reopen

LOOK_SECONDS = 5.0
"""How long a publisher may take to say what its targets show before the start goes on without it."""

Complain = Callable[[str, str], None]
"""Takes a publisher's name, and why what it shows does not count."""


async def highest_shown(publishers: Sequence[Publisher], trust: Trust, complain: Complain) -> VerifiedBundle | None:
    """The validly signed bundle with the highest sequence, expired or not; None where no target shows one."""
    looks = await asyncio.gather(*(_shown(publisher, trust, complain) for publisher in publishers))
    found = [bundle for bundles in looks for bundle in bundles]
    return max(found, key=lambda verified: verified.sequence, default=None)


async def _shown(publisher: Publisher, trust: Trust, complain: Complain) -> list[VerifiedBundle]:
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            shown = await publisher.read()
    except TimeoutError:
        complain(publisher.name, f"expected an answer within {LOOK_SECONDS} s, found none")
        return []
    except PublishError as error:
        complain(publisher.name, str(error))
        return []
    verified = []
    for one in shown:
        if one.error:
            complain(publisher.name, one.error)
        try:
            verified += [reopen(one.bundle, trust)] if one.bundle else []
        except BundleRejected as error:
            complain(publisher.name, f"{one.target}: {error}")
    return verified
