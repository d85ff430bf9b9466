"""``python -m authority`` that stops itself (SIGSTOP) before one operation on files, as a paused machine does.

The file that ``STOP_ONCE`` names arms it and is removed by it. It holds the operation, and the name of a file or of the
directory that it is in: ``os.link journal``, a record that is written and about to take its name.
"""

import os
import runpy
import signal
import sys
import threading
from pathlib import Path

ARMED = Path(os.environ["STOP_ONCE"])
PATHS = {"os.link": 1, "open": 0}


def stop(event: str, arguments: tuple[object, ...]) -> None:
    """Audit hook: called before each operation (https://docs.python.org/3/library/audit_events.html)."""
    if event not in PATHS or not ARMED.exists():
        return
    path = Path(os.fsdecode(str(arguments[PATHS[event]])))
    if path == ARMED:
        return
    operation, name = ARMED.read_text().split()
    if event == operation and name in (path.name, path.parent.name):
        ARMED.unlink()
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # to this thread: it goes no further


if __name__ == "__main__":
    sys.addaudithook(stop)
    runpy.run_module("authority", run_name="__main__", alter_sys=True)
