"""The choice of a set, whatever the mounts show: a verdict in words, never an error of the program."""

from hypothesis import HealthCheck, given, settings

from agent.choose import Shown, choose
from tests.contract.mutations import NAMES, SITUATIONS, resigned, tampered
from tidemark.bundle import CA_FILE, NOTE_FILE, Bundle
from tidemark.verify import SECURITY_EVENTS, Reason


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(tampered() | resigned(), NAMES)
def test_whatever_is_mounted_is_adopted_or_refused_in_words(candidate: Bundle, name: str) -> None:
    situation = SITUATIONS[name]
    shown = Shown({CA_FILE: candidate.ca, NOTE_FILE: candidate.note}, None)
    choice = choose(shown, situation.trust, situation.known, None, situation.now)
    assert (choice.adopted is None) != (choice.refused is None)
    if choice.refused is not None:
        reason = Reason(choice.refused.reason)
        assert choice.refused.security == (reason in SECURITY_EVENTS)
        assert "expected" in choice.refused.detail
        assert len(choice.refused.detail) < 1000
        assert (choice.refused.retry_at is not None) == (reason is Reason.HELD)
