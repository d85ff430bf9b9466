"""A CA that servers load without trusting it, under load: only handshakes show it, and it is rolled back unasked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playground.deployment import authority_session, deployed
from playground.layout import Layout
from playground.observe import Observer
from playground.record import KINDS, message_counts
from tests.harness.waiting import eventually

Answer = dict[str, Any]


async def test_ca_that_two_servers_distrust_is_rolled_back_without_message_loss(tmp_path: Path) -> None:
    layout = Layout.allot(tmp_path)
    # Long epochs: a set is put back after three tries (17 s), and nothing else may be due meanwhile.
    async with (
        deployed(layout, "production", lambda _: None) as deployment,
        Observer(deployment) as observer,
        authority_session(layout) as session,
    ):
        observer.begin()

        async def status(look: Callable[[Answer], object]) -> Answer | None:
            async with session.get(f"{layout.authority_url}/api/v1/status") as response:
                answer: Answer = await response.json()
            return answer if look(answer) else None

        def is_calm(answer: Answer) -> bool:
            signing, epoch = answer["signing"]["sha256"], answer["epoch"]
            is_due = any(abs(at - answer["now"]) < 60 for at in (epoch["prepare_at"], epoch["ends"]))
            has_leaves = all(leaf["ca"] == signing for leaf in answer["leaves"])
            return answer["fleet"]["proven"] == 5 and has_leaves and not is_due

        before = await eventually(lambda: status(is_calm), "a fleet that has proven everything", 180)
        for pod in layout.servers[:2]:  # their reloads succeed from now on, and change nothing
            conf, trusted, frozen = pod.root / "nats.conf", pod.out / "ca.crt", pod.root / "frozen.pem"
            frozen.write_bytes(trusted.read_bytes())
            conf.write_text(conf.read_text().replace(str(trusted), str(frozen)))
        token = (layout.authority_state / "tokens" / "operator").read_text().strip()
        url, headers = f"{layout.authority_url}/api/v1/rotate", {"Authorization": f"Bearer {token}"}
        async with session.post(url, json={"reason": "a test"}, headers=headers) as response:
            rotated = await response.json()

        def is_over(answer: Answer) -> bool:
            return any(one["stage"] == "done" and one["distrusted"] == 5 for one in answer["withdrawals"])

        after = await eventually(lambda: status(is_over), "everybody to distrust it", 90)
        (found,) = after["withdrawals"]
        assert (found["ca"], found["cause"], found["automatic"]) == (rotated["ca"], "rollback", True)
        assert found["reason"] == f"2 of 3 required agents have put statement {rotated['sequence']} back"
        assert after["signing"] == before["signing"]
        assert is_calm(after)
        await deployment.stop_load()
        observer.note_counts()
        for kind in KINDS:
            counts = message_counts(observer.record, kind)
            assert counts["received"] == counts["published"] > 0, kind
            assert (counts["lost"], counts["duplicated"]) == (0, 0), kind
