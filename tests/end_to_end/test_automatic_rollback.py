"""A CA that servers seem to load and do not trust, under load: only handshakes show it, and it is rolled back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playground.deployment import authority_session, deployed
from playground.layout import Layout, ServerPod
from playground.observe import Observer
from playground.record import KINDS, message_counts
from tests.harness.waiting import eventually

Answer = dict[str, Any]


def is_calm(answer: Answer) -> bool:
    """Whether all five agents have proven everything, and no step is due within a minute."""
    signing, epoch = answer["signing"]["sha256"], answer["epoch"]
    is_due = any(abs(at - answer["now"]) < 60 for at in (epoch["prepare_at"], epoch["ends"]))
    has_leaves = all(leaf["ca"] == signing for leaf in answer["leaves"])
    return answer["fleet"]["proven"] == 5 and has_leaves and not is_due


def is_distrusted(answer: Answer) -> bool:
    """Whether the withdrawal is done and all five agents distrust the CA."""
    return any(one["stage"] == "done" and one["distrusted"] == 5 for one in answer["withdrawals"])


def freeze_trust(pod: ServerPod) -> None:
    """Have a server trust the present CAs for ever: from now on its reloads succeed and change nothing."""
    conf, trusted, frozen = pod.root / "nats.conf", pod.out / "ca.crt", pod.root / "frozen.pem"
    frozen.write_bytes(trusted.read_bytes())
    conf.write_text(conf.read_text().replace(str(trusted), str(frozen)))


def check_no_loss(observer: Observer) -> None:
    observer.note_counts()
    for kind in KINDS:
        counts = message_counts(observer.record, kind)
        assert counts["received"] == counts["published"] > 0, kind
        assert (counts["lost"], counts["duplicated"]) == (0, 0), kind


async def test_ca_that_two_servers_distrust_is_rolled_back_without_message_loss(tmp_path: Path) -> None:
    layout = Layout.allot(tmp_path)
    # Long epochs: agents revert a set after three attempts (17 s), and no other step may be due meanwhile.
    async with (
        deployed(layout, "production", lambda _: None) as deployment,
        Observer(deployment) as observer,
        authority_session(layout) as session,
    ):
        observer.begin()

        async def status(condition: Callable[[Answer], bool]) -> Answer | None:
            async with session.get(f"{layout.authority_url}/api/v1/status") as response:
                answer: Answer = await response.json()
            return answer if condition(answer) else None

        before = await eventually(lambda: status(is_calm), "a fleet that has proven everything", 180)
        for pod in layout.servers[:2]:
            freeze_trust(pod)
        token = (layout.authority_state / "tokens" / "operator").read_text().strip()
        url, headers = f"{layout.authority_url}/api/v1/rotate", {"Authorization": f"Bearer {token}"}
        async with session.post(url, json={"reason": "a test"}, headers=headers) as response:
            rotated = await response.json()
        after = await eventually(lambda: status(is_distrusted), "all agents to distrust the CA", 90)
        (found,) = after["withdrawals"]
        assert (found["ca"], found["cause"], found["automatic"]) == (rotated["ca"], "rollback", True)
        assert found["reason"] == f"2 of 3 required agents have put statement {rotated['sequence']} back"
        assert after["signing"] == before["signing"]
        assert is_calm(after)
        await deployment.stop_load()
        check_no_loss(observer)
