"""The contract reads no clock, no file and no network, and importing it costs no more than it must."""

import subprocess
import sys

import pytest

MODULES = [
    "epoch",
    "strict_json",
    "note",
    "bundle",
    "certificates",
    "verify",
    "receipt",
    "trust",
    "announcement",
    "faults",
]


IMPURE = {"asyncio", "logging", "ssl", "subprocess"}
"""What a pure module has no use for; asyncio is also some of an agent's memory budget."""

PACKAGES = {"tidemark", "cryptography", "_cffi_backend", "_openssl"}
"""What may come from outside the standard library (the last two are cryptography's own)."""

LOADED = (
    "import sys; before = set(sys.modules); import tidemark.{}; print(*sorted(set(sys.modules) - before), sep='\\n')"
)


def loaded_by(module: str) -> set[str]:
    """Every module that importing this one loads in a fresh interpreter."""
    command = [sys.executable, "-W", "error", "-c", LOADED.format(module)]
    return set(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split())


@pytest.mark.parametrize("module", MODULES)
def test_importing_a_module_loads_nothing_that_it_does_not_need(module: str) -> None:
    loaded = loaded_by(module)
    roots = {name.partition(".")[0] for name in loaded}
    assert f"tidemark.{module}" in loaded
    assert roots & IMPURE == set()
    assert {root for root in roots if root not in sys.stdlib_module_names} <= PACKAGES


def test_the_package_itself_loads_nothing() -> None:
    command = "import sys; before = set(sys.modules); import tidemark; print(set(sys.modules) - before)"
    result = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "{'tidemark'}"


def test_the_clock_and_the_notes_need_no_certificates() -> None:
    for module in ("epoch", "strict_json", "bundle"):
        assert not any(name.startswith("cryptography") for name in loaded_by(module)), module
    assert not any(name.startswith("cryptography.x509") for name in loaded_by("note"))
