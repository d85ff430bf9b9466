"""What two transports bring of the same consumers is delivered once, in the consumers' order."""

from hypothesis import given
from hypothesis import strategies as st

from tidemark.nats.switching.dedup import Deduplicator, DeliveredMessage

STATUS = b""


def delivery(number: int | None, sid: int = 1, consumer: str = "c", *, long: bool = False) -> DeliveredMessage:
    """``None`` is a status, which has no number."""
    if number is None:
        return DeliveredMessage(sid, b"inbox", STATUS, b"", b"NATS/1.0 100 Idle Heartbeat\r\n\r\n")
    form = "$JS.ACK._.hash.S.{}.1.{}.{}.0.0.random" if long else "$JS.ACK.S.{}.1.{}.{}.0.0"
    return DeliveredMessage(sid, b"inbox", form.format(consumer, number + 1000, number).encode(), b"%d" % number, b"")


async def passed(
    old: list[DeliveredMessage], new: list[DeliveredMessage], late: list[DeliveredMessage] | None = None
) -> list[DeliveredMessage]:
    """What is delivered: by the old transport, then what was held back of the new one, then what that brings late."""
    dedup, through = Deduplicator(), list(old)
    for one in old:
        dedup.record_old(one)
    assert all(dedup.stops_new(one) for one in new)

    async def deliver(one: DeliveredMessage) -> None:
        through.append(one)

    await dedup.release(deliver)
    return through + [one for one in late or () if not dedup.stops_new(one)]


@given(first=st.integers(0, 20), overlaps=st.integers(0, 20), more=st.integers(0, 20), long=st.booleans())
async def test_each_message_is_delivered_once_in_order(first: int, overlaps: int, more: int, *, long: bool) -> None:
    everything = [delivery(number, long=long) for number in range(1, first + overlaps + more + 1)]
    assert await passed(everything[: first + overlaps], everything[first:]) == everything


@given(lag=st.integers(0, 10))
async def test_late_copy_from_another_server_is_dropped(lag: int) -> None:
    everything = [delivery(number) for number in range(1, 21)]
    new = everything[5:]
    assert await passed(everything[:15], new[:lag], new[lag:]) == everything


async def test_every_message_of_the_new_transport_is_delivered_if_the_old_brought_none() -> None:
    new = [delivery(7), delivery(8)]
    assert await passed([], new) == new


async def test_consumers_and_inboxes_are_deduplicated_apart() -> None:
    old = [delivery(5), delivery(9, sid=2, consumer="d")]
    new = [
        delivery(5),
        delivery(6),
        delivery(1, consumer="again"),
        delivery(9, sid=2, consumer="d"),
        delivery(3, sid=3),
    ]
    assert await passed(old, new) == [*old, delivery(6), delivery(1, consumer="again"), delivery(3, sid=3)]


async def test_status_before_a_delivered_message_is_not_repeated() -> None:
    old = [delivery(4), delivery(None), delivery(5)]
    assert await passed(old, [delivery(None), delivery(5), delivery(None), delivery(6)]) == [
        *old,
        delivery(None),
        delivery(6),
    ]


async def test_message_that_arrives_during_release_keeps_its_place() -> None:
    dedup, through = Deduplicator(), []
    dedup.stops_new(delivery(1))

    async def deliver(one: DeliveredMessage) -> None:
        through.append(one)
        if len(through) == 1:
            assert dedup.stops_new(delivery(2))

    await dedup.release(deliver)
    assert through == [delivery(1), delivery(2)]
    assert not dedup.stops_new(delivery(3))
