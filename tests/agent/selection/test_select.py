"""The choice among what the sources show: the highest that passes, whichever way it came; pure."""

import time
from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from agent.selection.select import BundleSource, Choice, Refusal, SourceContents, choose
from tests.harness.contract.bundle_factory import BundleFactory
from tidemark.bundle import CA_FILE, NOTE_FILE, Bundle
from tidemark.note import Signer
from tidemark.verify import Known, Mark

FORGE = BundleFactory(int(time.time()))
STRANGER = Signer.generate(f"{FORGE.domain}/a")


@cache
def good(sequence: int) -> Bundle:
    return FORGE.bundle(sequence)


@cache
def forged(sequence: int) -> Bundle:
    return FORGE.bundle(sequence, signer=STRANGER)


def judge(mount: Bundle | None, announced: list[Bundle], known: Known) -> Choice:
    files = {CA_FILE: mount.ca, NOTE_FILE: mount.note} if mount else Refusal("mount_missing", "none", judged=False)
    return choose(SourceContents(files, None, tuple(announced)), FORGE.trust(), known, None, FORGE.now)


CANDIDATES = st.tuples(st.booleans(), st.integers(1, 9))


@given(mount=st.none() | CANDIDATES, announced=st.lists(CANDIDATES, max_size=4), highest=st.none() | st.integers(1, 9))
def test_highest_good_bundle_is_chosen_from_either_source(
    mount: tuple[bool, int] | None, announced: list[tuple[bool, int]], highest: int | None
) -> None:
    def bundle(candidate: tuple[bool, int]) -> Bundle:
        return good(candidate[1]) if candidate[0] else forged(candidate[1])

    seen = good(highest).ca_sha256 if highest else ""
    mark = Mark(highest, seen) if highest else None
    choice = judge(mount and bundle(mount), [bundle(one) for one in announced], Known(highest=mark))
    shown = ([mount] if mount else []) + announced
    acceptable = [sequence for fine, sequence in shown if fine and (highest is None or sequence > highest)]
    assert (choice.adopted.sequence if choice.adopted else None) == max(acceptable, default=None)
    forgeries = [refusal for refusal in choice.refused if refusal.reason == "signature"]
    assert len(forgeries) == sum(1 for fine, _ in shown if not fine), "each is told"
    assert all(refusal.security for refusal in forgeries)
    from_mount = [refusal for refusal in choice.refused if refusal.source is BundleSource.MOUNT]
    assert bool(from_mount) == (mount is None or not mount[0] or mount[1] <= (highest or 0))


def test_lower_statement_is_replay_from_mount_only() -> None:
    seven = Mark(7, "7" * 64)
    choice = judge(good(3), [good(3)], Known(highest=seven, shown=5))
    assert {(refusal.source, refusal.reason) for refusal in choice.refused} == {
        (BundleSource.MOUNT, "replay"),
        (BundleSource.JETSTREAM, "superseded"),
    }
    choice = judge(good(5), [], Known(highest=seven, shown=5))
    assert [refusal.reason for refusal in choice.refused] == ["superseded"]
    assert choice.mounted == 5


def test_two_new_texts_of_one_sequence_are_equivocation() -> None:
    other = FORGE.bundle(4, issued_at=FORGE.now - 1)
    choice = judge(good(4), [other, good(4)], Known())
    assert choice.adopted
    assert choice.adopted.bundle == good(4)
    (refusal,) = choice.refused
    assert (refusal.reason, refusal.source, refusal.security) == ("equivocation", BundleSource.JETSTREAM, True)
