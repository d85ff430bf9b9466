"""Faults of a configuration: their sentences, their order, and the prefix of inner parts."""

from tidemark.faults import Faults


def test_faults_of_inner_parts_keep_their_order_and_their_full_key() -> None:
    faults = Faults("TIDEMARK_")
    faults.expected("POD", "a name", "nothing")
    inner = faults.below("AGENTS[1].")
    inner.add_to("class", "unknown")
    inner.below("deep.").expected("port", "a number", "'x'")
    faults.add("expected a file, found none")
    assert list(faults) == [
        "TIDEMARK_POD: expected a name, found nothing",
        "TIDEMARK_AGENTS[1].class: unknown",
        "TIDEMARK_AGENTS[1].deep.port: expected a number, found 'x'",
        "expected a file, found none",
    ]
    assert len(inner) == len(faults) == 4


def test_no_fault_is_false() -> None:
    assert not Faults()
