"""``python -m authority``, which stops itself (SIGSTOP) before it appends to its journal, as a machine may be paused.

It does once the file that ``STOP_ONCE`` names is there, which it removes: the record is written, and about to take its
name.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

ARMED = Path(os.environ["STOP_ONCE"])


def stop(event: str, arguments: tuple[object, ...]) -> None:
    """Told of each operation before it happens (https://docs.python.org/3/library/audit_events.html)."""
    if event == "os.link" and Path(str(arguments[1])).parent.name == "journal" and ARMED.exists():
        ARMED.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    sys.addaudithook(stop)
    runpy.run_module("authority", run_name="__main__", alter_sys=True)
