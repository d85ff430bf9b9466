"""Every target of a publisher at the same time: one that fails or is slow keeps no other from being written."""

import asyncio
from collections.abc import Awaitable, Mapping

from authority.publishers.interface import Brought, Outcome, PublishError


async def side_by_side(works: Mapping[str, Awaitable[Outcome]]) -> Brought:
    """What came of the work at each target, by its name. Raises what is no PublishError."""
    results = dict(zip(works, await asyncio.gather(*works.values(), return_exceptions=True), strict=True))
    for result in results.values():
        if isinstance(result, BaseException) and not isinstance(result, PublishError):
            raise result
    return Brought(
        written=tuple(target for target, result in results.items() if result is Outcome.WRITTEN),
        newer=tuple(target for target, result in results.items() if result is Outcome.NEWER),
        failed=tuple(str(result) for result in results.values() if isinstance(result, PublishError)),
    )
