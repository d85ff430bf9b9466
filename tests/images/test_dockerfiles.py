"""What must be true of a Dockerfile by its text: no engine is needed to see it."""

import fnmatch
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from importlib.resources import files
from pathlib import Path

import pytest

from tests.harness.images.build import IMAGES
from tests.harness.images.dockerfile import Dockerfile, pairs, read
from tests.harness.paths import CHECKOUT


@pytest.fixture(params=IMAGES)
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def dockerfile(program: str) -> Dockerfile:
    return read(CHECKOUT / f"Dockerfile.{program}")


def test_base_image_is_an_argument_pinned_to_a_patch_version(dockerfile: Dockerfile) -> None:
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", dockerfile.arguments["BASE"])
    assert [stage.base for stage in dockerfile.stages] == ["${BASE}", "${BASE}", "scratch"]
    assert "latest" not in "".join(stage.base for stage in dockerfile.stages)


def test_only_the_build_stage_installs_packages_and_with_hashes(dockerfile: Dockerfile, program: str) -> None:
    installs = [run for run in dockerfile.stage("build").all("RUN") if "pip install" in run]
    assert len(installs) == 1
    assert "--require-hashes --only-binary :all:" in installs[0]
    assert installs[0].endswith(f"-r {program}.lock")
    assert "PIP_INDEX_URL" in dockerfile.stage("build").all("ARG")


def test_final_stage_only_copies_the_two_other_stages(dockerfile: Dockerfile) -> None:
    assert dockerfile.final.all("RUN") == []
    assert dockerfile.final.all("COPY") == ["--from=root / /", "--from=build /opt/tidemark /opt/tidemark"]
    assert "PIP_INDEX_URL" not in " ".join(dockerfile.final.all("ARG"))


def test_root_stage_removes_pip_and_ensurepip(dockerfile: Dockerfile) -> None:
    """Neither pip's packages nor its commands; no package is installed there, so no compiler comes in."""
    (run,) = dockerfile.stage("root").all("RUN")
    assert run.startswith("rm -rf ")
    assert "site.getsitepackages()" in run
    assert "/ensurepip" in run
    assert "-path '*/bin/pip*' -delete" in run
    assert not re.search(r"apt|apk|dnf|install", run.replace("ensurepip", ""))


def test_removed_directories_are_those_that_contain_pip(dockerfile: Dockerfile) -> None:
    (run,) = dockerfile.stage("root").all("RUN")
    found = re.search(r"python3 -c '([^']+)'", run)
    assert found
    command = [sys.executable, "-c", found[1]]
    places = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    pip = Path(str(metadata.distribution("pip").locate_file("pip")))
    for package in (pip, Path(str(files("ensurepip")))):
        assert any(package.is_relative_to(place) for place in places), f"{package} is in {places}"


def test_image_runs_as_a_numeric_user_that_is_not_root(dockerfile: Dockerfile) -> None:
    (user,) = dockerfile.final.all("USER")
    uid, gid = map(int, user.split(":"))
    assert uid >= 10_000
    assert gid >= 10_000


def test_image_has_entrypoint_stop_signal_and_path(dockerfile: Dockerfile, program: str) -> None:
    assert dockerfile.final.all("ENTRYPOINT") == [f'["tidemark-{program}"]']
    assert dockerfile.final.all("STOPSIGNAL") == ["SIGTERM"]
    (environment,) = dockerfile.final.all("ENV")
    assert pairs(environment)["PATH"].startswith("/opt/tidemark/bin:")


def test_entrypoint_script_is_executable_and_on_the_path(program: str) -> None:
    """A COPY keeps the mode that git has; without its bit the container would end with "permission denied"."""
    command = ["git", "ls-files", "--stage", f"images/tidemark-{program}"]
    listed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    assert listed.startswith("100755 ")
    copied = dict(text.split() for text in read(CHECKOUT / f"Dockerfile.{program}").stage("build").all("COPY"))
    assert copied[f"images/tidemark-{program}"] == f"/opt/tidemark/bin/tidemark-{program}", "where PATH begins"


def test_image_version_is_the_version_of_the_project(dockerfile: Dockerfile) -> None:
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    assert f"VERSION={version}" in dockerfile.final.all("ARG")


def test_image_has_the_opencontainers_labels(dockerfile: Dockerfile, program: str) -> None:
    (text,) = dockerfile.final.all("LABEL")
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): value for name, value in pairs(text).items()}
    assert labels.keys() == {"title", "description", "licenses", "version", "revision"}
    assert labels["title"] == f"tidemark-{program}"
    assert labels["licenses"] == "Apache-2.0"


def test_build_context_holds_only_the_files_that_are_copied() -> None:
    lines = (CHECKOUT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    admitted = {line[1:] for line in lines if line.startswith("!")}
    copied = set()
    for name in IMAGES:
        copied |= {text.split()[0] for text in read(CHECKOUT / f"Dockerfile.{name}").stage("build").all("COPY")}
    assert {source if source not in scripts() else "images" for source in copied} == admitted
    command = ["git", "ls-files"]
    tracked = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.split()
    for source in copied:
        assert any(fnmatch.fnmatch(path, f"{source}*") for path in tracked), f"{source} is in the repository"


def scripts() -> set[str]:
    return {f"images/tidemark-{name}" for name in IMAGES}
