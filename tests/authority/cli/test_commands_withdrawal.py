"""``rollback``, ``revoke`` and ``override`` as an operator types them, to a program that runs."""

import json
import time
from pathlib import Path
from typing import Any

from tests.harness.authority.deployment import AuthorityDeployment, Program, command


async def status_of(deployment: AuthorityDeployment) -> dict[str, Any]:
    answer = await command("--config", deployment.config_file, "status", "--json")
    assert answer.status == 0, answer.err
    return dict(json.loads(answer.out))


def clock_without_preparation(minutes: int) -> str:
    """The table ``[clock]`` of a deployment that prepares no CA for so long: a CA in preparation waits for its gate."""
    now, preparation = int(time.time()), 300
    epoch = next(epoch for epoch in range(1200, 1600, 20) if now % epoch < epoch - preparation - 60 * minutes)
    return f"[clock]\nepoch_seconds = {epoch}"


async def test_withdrawals_on_the_command_line(tmp_path: Path) -> None:
    clock = clock_without_preparation(minutes=5)
    deployment = AuthorityDeployment.create(tmp_path / "deployment", preset="testing", more=clock)
    deployment.init()

    async def ask(*words: str, typed: str = "") -> tuple[int, str, str]:
        answer = await command("--config", deployment.config_file, *words, typed=typed)
        return answer.status, answer.out, answer.err

    async with Program(deployment) as program:
        await program.start()
        bad = (await status_of(deployment))["signing"]["sha256"]

        code, _, err = await ask("override", "--reason", "impatience")
        assert (code, err) == (1, "override: expected a CA that waits for its gate, found none\n")
        assert (await ask("revoke", "--reason", "leaked"))[0] == 2  # which?
        code, _, err = await ask("revoke", "--reason", "leaked", "--ca", "beef00")
        assert code == 1
        assert "revocation: expected a CA that is trusted, by 'beef00', found only" in err

        urgent = ("rollback", "--reason", "nats-0 chokes", "--now")
        for typed in ("", "no\n", "y\n"):
            code, out, err = await ask(*urgent, typed=typed)
            assert (code, out) == (1, "")
            assert "2 of 2 agents do not say who signed the leaf that they serve: nats-0, app-0" in err
            assert "rollback: expected 'yes', nothing was done" in err
        assert (await status_of(deployment))["withdrawals"] == []
        code, out, err = await ask(*urgent, typed="yes\n")
        assert code == 0, err
        assert json.loads(out)["ca"] == bad
        (withdrawal,) = (await status_of(deployment))["withdrawals"]
        assert (withdrawal["ca"], withdrawal["now"], withdrawal["cause"]) == (bad, True, "rollback")

        second = (await status_of(deployment))["newest"]["ca"]
        code, out, err = await ask("revoke", "--reason", "leaked", "--ca", second[:10], "--now", "--yes")
        assert code == 0, err
        assert "warning: the root is in the bundle" in err
        assert "Type 'yes'" not in err
        third = (await status_of(deployment))["newest"]["ca"]
        code, out, err = await ask("revoke", "--reason", "leaked again", "--ca", third)
        assert code == 0
        assert err.startswith("warning: the root is in the bundle")
        code, out, _ = await ask("status")
        assert code == 0
        shown = " ".join(out.split())
        for text in ("Withdrawals", "Time to distrust", "revocation", "at once", "trusting", "nats-0, app-0"):
            assert text in shown
