"""Groups of tests that need programs which pip does not install: Prometheus.

A test that carries ``@pytest.mark.needs("promtool")`` belongs to the group of that program. ``make test`` installs what
it may (``.ci/platform``); a group whose program is not there is not run, and the last line of the test run names it.

Property tests have no deadline: how long an example takes says more about the machine than about the code.
"""

import pytest
from hypothesis import settings

from tests.harness.tools import TOOLS, find

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

ABSENT = pytest.StashKey[dict[str, int]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"needs(program, ...): runs only where these are ({', '.join(TOOLS)})")
    config.stash[ABSENT] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    absent = config.stash[ABSENT]
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        needed = [name for marker in item.iter_markers("needs") for name in marker.args]
        missing = sorted(name for name in set(needed) if find(name) is None)
        for name in missing:
            absent[name] = absent.get(name, 0) + 1
        (left_out if missing else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line, after pytest's own."""
    if not config.stash.get(ABSENT, {}):
        return
    groups = [f"{name} ({count} tests; {TOOLS[name].origin})" for name, count in sorted(config.stash[ABSENT].items())]
    print(f"NOT RUN here, for want of a program: {', '.join(groups)}")
