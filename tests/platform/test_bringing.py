"""``.ci/platform``: a program that cannot be had is left out by name, and hinders neither the others nor the set-up."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.paths import CHECKOUT
from tests.harness.tools import TOOLS

NEEDED = ("bash", "cp", "dirname", "env", "find", "id", "install", "mkdir", "realpath", "rm", "tail", "timeout")
"""All that the machine has, beside apt."""
BROUGHT = [name for name, one in TOOLS.items() if one.brought]

APT_GET = """#!/usr/bin/env bash
# A mirror whose packages are folders: download copies one of them.
mirror={mirror}
echo "$*" >>"$mirror.calls"
case "$*" in
  *" update") [ ! -e "$mirror/unreachable" ] || {{ echo "E: Could not resolve 'deb.example.com'" >&2; exit 100; }} ;;
  *" download "*)
    package=${{*: -1}}
    [ -d "$mirror/$package" ] || {{ echo "E: Unable to locate package $package" >&2; exit 100; }}
    cp -r "$mirror/$package" "./$package.deb" ;;
esac
"""
DPKG_DEB = """#!/usr/bin/env bash
[ ! -e "$2/broken" ] || { echo "dpkg-deb: error: unexpected end of file" >&2; exit 2; }
cp -r "$2" "$3"
"""
STARTS = "#!/usr/bin/env bash\necho version 1\n"
STARTS_NOT = "#!/usr/bin/env bash\necho 'error while loading shared libraries: libx.so.3' >&2\nexit 127\n"


def program(path: Path, text: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@dataclass(frozen=True)
class Machine:
    """A bare machine: a few programs, a virtual environment, and a mirror of Debian packages that a test fills."""

    path: Path
    venv: Path
    mirror: Path

    def package(self, name: str, *programs: str, folder: str = "usr/bin", text: str = STARTS) -> None:
        (self.mirror / name).mkdir(parents=True, exist_ok=True)
        for one in programs:
            program(self.mirror / name / folder / one, text)

    def everything(self, *but: str) -> None:
        """Each program is in a package of its own, as on Debian 13."""
        for name in set(BROUGHT) - set(but):
            self.package(TOOLS[name].packages[0], name)

    def set_up(self) -> list[str]:
        """What a run names as left out; the run succeeds."""
        run = subprocess.run(
            [str(CHECKOUT / ".ci" / "platform"), str(self.venv)],
            env={"PATH": str(self.path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert not (self.venv / ".apt").exists()
        return run.stderr.splitlines()

    def installed(self) -> set[str]:
        return {one.name for one in (self.venv / "bin").iterdir()} - {"python"}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "bin", tmp_path / "venv", tmp_path / "mirror")
    for folder in (made.path, made.venv / "bin", made.mirror):
        folder.mkdir(parents=True)
    for name in NEEDED:
        found = shutil.which(name)
        assert found is not None, name
        (made.path / name).symlink_to(found)
    (made.venv / "bin" / "python").symlink_to(sys.executable)
    program(made.path / "apt-get", APT_GET.format(mirror=made.mirror))
    program(made.path / "dpkg-deb", DPKG_DEB)
    return made


def left_out(*reasons: tuple[str, str]) -> list[str]:
    return [f"Not installed: {name} ({reason}); its tests are left out." for name, reason in reasons]


def test_platform_brings_each_program_from_its_own_package(machine: Machine) -> None:
    machine.everything()
    assert machine.set_up() == []
    assert machine.installed() == set(BROUGHT)
    assert all(os.access(machine.venv / "bin" / name, os.X_OK) for name in BROUGHT)


def test_platform_downloads_a_shared_package_once(machine: Machine) -> None:
    machine.everything("promtool")
    machine.package("prometheus", "promtool")
    assert machine.set_up() == []
    assert machine.installed() == set(BROUGHT)
    assert Path(f"{machine.mirror}.calls").read_text().count("download prometheus\n") == 1


def test_program_in_another_folder_of_its_package_is_found(machine: Machine) -> None:
    machine.everything("promtool")
    machine.package("promtool", "promtool", folder="usr/lib/prometheus/bin")
    for namesake in ("etc/init.d/promtool", "usr/share/bash-completion/completions/promtool"):
        program(machine.mirror / "promtool" / namesake, "#!/usr/bin/env bash\n# not the program\n")
    assert machine.set_up() == []
    assert (machine.venv / "bin" / "promtool").read_text() == STARTS


def test_unavailable_package_leaves_out_its_program_alone(machine: Machine) -> None:
    machine.everything("prometheus")
    assert machine.set_up() == left_out(
        ("prometheus", "apt-get download prometheus: E: Unable to locate package prometheus")
    )
    assert machine.installed() == set(BROUGHT) - {"prometheus"}


def test_package_without_its_program_is_left_out_with_every_reason(machine: Machine) -> None:
    machine.everything("promtool")
    program(machine.mirror / "promtool" / "usr/share/bash-completion/completions/promtool", "complete", 0o644)
    assert machine.set_up() == left_out(
        ("promtool", "the package promtool has no program promtool; the package prometheus has no program promtool")
    )
    assert machine.installed() == set(BROUGHT) - {"promtool"}


def test_broken_package_leaves_out_its_program_alone(machine: Machine) -> None:
    machine.everything()
    program(machine.mirror / "prometheus" / "broken", "")
    assert machine.set_up() == left_out(
        ("prometheus", "dpkg-deb --extract prometheus: dpkg-deb: error: unexpected end of file")
    )
    assert machine.installed() == set(BROUGHT) - {"prometheus"}


def test_program_that_does_not_start_is_removed_and_left_out(machine: Machine) -> None:
    machine.everything("prometheus")
    machine.package("prometheus", "prometheus", text=STARTS_NOT)
    why = "error while loading shared libraries: libx.so.3"
    assert machine.set_up() == left_out(("prometheus", f"prometheus of the package prometheus does not start: {why}"))
    assert machine.installed() == set(BROUGHT) - {"prometheus"}


def test_platform_without_network_calls_apt_once_and_leaves_out_every_program(machine: Machine) -> None:
    machine.everything()
    program(machine.mirror / "unreachable", "")
    assert machine.set_up() == left_out(
        *((name, "apt-get update: E: Could not resolve 'deb.example.com'") for name in BROUGHT)
    )
    assert machine.installed() == set()
    assert len(Path(f"{machine.mirror}.calls").read_text().splitlines()) == 1


@pytest.mark.parametrize("program", ["apt-get", "dpkg-deb"])
def test_platform_without_apt_leaves_out_every_program(machine: Machine, program: str) -> None:
    (machine.path / program).unlink()
    assert machine.set_up() == left_out(*((name, "no apt-get here") for name in BROUGHT))


def test_platform_does_not_bring_a_present_program_again(machine: Machine) -> None:
    for name in BROUGHT:
        program(machine.path / name, STARTS)
    assert machine.set_up() == []
    assert machine.installed() == set()
    assert not Path(f"{machine.mirror}.calls").exists()


def test_unreadable_table_of_programs_fails_the_set_up(machine: Machine) -> None:
    (machine.venv / "bin" / "python").unlink()
    program(machine.venv / "bin" / "python", STARTS_NOT)
    command = [str(CHECKOUT / ".ci" / "platform"), str(machine.venv)]
    run = subprocess.run(command, env={"PATH": str(machine.path)}, capture_output=True, check=False, timeout=120)
    assert run.returncode == 127
