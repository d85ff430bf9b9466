"""Groups of tests: those that need a program which pip does not install, and those that start no program at all.

A test that carries ``@pytest.mark.needs("promtool")`` belongs to the group of that program. ``make test`` installs what
it may (``.ci/platform``); a group whose program is not there is not run, and the last line of the test run names it.

Property tests have no deadline: how long an example takes says more about the machine than about the code.

``--unit`` (``make unit``) runs the tests that start no other program. No list names them: a test is left out where
its module, a fixture of the test, or code of the tests or the playground that these use mentions ``subprocess``. Tests
that are marked ``long`` (simulated days, crashes at every step, searches for counterexamples) are left out as well.
"""

import inspect
import sys
from collections.abc import Iterator
from functools import cache
from types import ModuleType

import pytest
from hypothesis import settings

from tests.harness.tools import TOOLS, find

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

ABSENT = pytest.StashKey[dict[str, int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--unit", action="store_true", help="only the tests that start no other program")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"needs(program, ...): runs only where these are ({', '.join(TOOLS)})")
    config.addinivalue_line("markers", "long: takes seconds rather than milliseconds; not part of --unit")
    config.stash[ABSENT] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    absent = config.stash[ABSENT]
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        needed = [name for marker in item.iter_markers("needs") for name in marker.args]
        missing = sorted(name for name in set(needed) if find(name) is None)
        if config.option.unit and (needed or item.get_closest_marker("long") or _starts_programs(item)):
            left_out.append(item)
            continue
        for name in missing:
            absent[name] = absent.get(name, 0) + 1
        (left_out if missing else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def _starts_programs(item: pytest.Item) -> bool:
    """Whether the test's module, its fixtures, or code of tests and playground that these use starts programs."""
    assert isinstance(item, pytest.Function)
    fixtures = (one for definitions in item._fixtureinfo.name2fixturedefs.values() for one in definitions)
    modules = {item.module.__name__, *(fixture.func.__module__ for fixture in fixtures)}
    return any(_mentions_subprocess(name) for name in modules)


@cache
def _mentions_subprocess(name: str) -> bool:
    seen: set[str] = set()
    ahead = {name}
    while ahead:
        seen |= ahead
        modules = [sys.modules[one] for one in ahead if one in sys.modules]
        if any("subprocess" in inspect.getsource(module) for module in modules if module.__file__ != __file__):
            return True
        ahead = {used for module in modules for used in _used(module)} - seen
    return False


def _used(module: ModuleType) -> Iterator[str]:
    """The modules of tests and playground whose functions and classes this module has; constants start nothing."""
    for value in vars(module).values():
        source = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(source, str) and source.startswith(("tests.", "playground.")):
            yield source


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line, after pytest's own."""
    if not config.stash.get(ABSENT, {}):
        return
    groups = [f"{name} ({count} tests; {TOOLS[name].origin})" for name, count in sorted(config.stash[ABSENT].items())]
    print(f"NOT RUN here, for want of a program: {', '.join(groups)}")
