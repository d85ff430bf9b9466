"""What the documents say is so: commands, metrics, variables, links and manifests in them exist."""

import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from prometheus_client import CollectorRegistry

from agent.config import PREFIX
from agent.reporting.metrics import AgentMetrics
from authority.cli.parser import parser
from authority.config.load import parse
from authority.injector.annotations import INJECT, InjectionRefused, SidecarMode, read_injection_request
from authority.injector.annotations import PREFIX as ANNOTATIONS
from authority.observability.metrics import AuthorityMetrics
from tests.harness.documents.markdown import DOCUMENTS, blocks, prose, section
from tests.harness.manifests.custom_resources import is_custom, validate
from tests.harness.paths import CHECKOUT
from tidemark.nats.metrics import Metrics as ApplicationMetrics


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.name)
def document(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


PROGRAMS = {
    ("tidemark-authority",): "authority",
    ("python", "-m", "authority"): "authority",
    ("tidemark-agent",): "agent",
    ("python", "-m", "agent"): "agent",
}
"""How the programs are called."""
_END = ("|", ">", ">>", "&&", "||", "&", ";")


def lines(path: Path) -> Iterator[str]:
    """What is typed: in blocks, in back-ticks, and in the comments of manifests."""
    if path.suffix != ".md":
        comments = [line.strip("# \n") for line in path.read_text().splitlines() if line.lstrip().startswith("#")]
        yield from (comment for comment in comments if comment.startswith(("tidemark-", "kubectl ")))
        return
    for block in blocks(path, "sh"):
        yield from block.replace("\\\n", " ").splitlines()
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(path)) if " " in span)


def commands(path: Path) -> list[tuple[str, list[str]]]:
    """Calls of our programs, wherever they stand in a line: the program, and its arguments."""
    found = []
    for line in lines(path):
        if not any(call[-1] in line for call in PROGRAMS) or line.endswith("…"):
            continue
        words = shlex.split(line.replace("$TIDEMARK", ""), comments=True)
        for call, program in PROGRAMS.items():
            at = next((i for i in range(len(words)) if tuple(words[i : i + len(call)]) == call), None)
            if at is not None and (at == 0 or words[at - 1] in (*_END, "--")):
                rest = words[at + len(call) :]
                found.append((program, rest[: next((i for i, word in enumerate(rest) if word in _END), len(rest))]))
    return found


MANIFESTS = sorted((CHECKOUT / "manifests").rglob("*.yaml"))


def test_documented_commands_parse(capsys: pytest.CaptureFixture[str]) -> None:
    for path in [*DOCUMENTS, *MANIFESTS]:
        for program, words in commands(path):
            try:
                if program == "authority" and words:  # else its name alone
                    parser().parse_args(words)
                elif program == "agent":
                    assert words in ([], ["--once"], ["--help"]), words
            except SystemExit:
                pytest.fail(f"{path.name}: {words}: {capsys.readouterr().err}")


def test_documents_contain_commands_of_both_programs() -> None:
    count = Counter(program for path in [*DOCUMENTS, *MANIFESTS] for program, _ in commands(path))
    assert count["authority"] > 25
    assert count["agent"] >= 2


def metrics() -> set[str]:
    registry = CollectorRegistry()
    AgentMetrics(registry)
    ApplicationMetrics(registry, "test")
    every = [*registry.collect(), *AuthorityMetrics().registry.collect()]
    return {metric.name + ("_total" if metric.type == "counter" else "") for metric in every}


OTHERS = {"ca_rotation_last_success_timestamp"}
"""What the central watcher that Tidemark replaces had (docs/migrate.md)."""


def test_named_metrics_exist(document: Path) -> None:
    named = set(re.findall(r"`(ca_rotation_[a-z_]+)", document.read_text()))
    assert named <= metrics() | OTHERS, named - metrics()


def test_every_metric_is_documented() -> None:
    pages = "".join((CHECKOUT / "docs" / page).read_text() for page in ("architecture.md", "applications.md"))
    named = set(re.findall(r"`(ca_rotation_[a-z_]+)", pages))
    assert metrics() <= named, metrics() - named


def test_every_api_route_is_documented() -> None:
    source = (CHECKOUT / "authority" / "api" / "routes.py").read_text()
    routes = re.findall(r'web\.(get|post)\(r?"([^"{]+)', source)
    assert len(routes) > 10
    for method, path in routes:
        assert f"`{method.upper()} {path.rstrip('/')}" in section("architecture.md", "API"), path


def test_named_environment_variables_exist(document: Path) -> None:
    sources = "".join(
        path.read_text() for folder in ("agent", "authority") for path in (CHECKOUT / folder).rglob("*.py")
    )
    known = set(re.findall(rf"{PREFIX}[A-Z_]+", sources)) | {
        f"{PREFIX}{name}" for name in re.findall(r'"([A-Z_]+)"', sources)
    }
    assert set(re.findall(rf"`({PREFIX}[A-Z_]+)", document.read_text())) <= known


def test_kubernetes_objects_in_documents_fit_the_schemas(document: Path) -> None:
    for block in blocks(document, "yaml"):
        for item in yaml.safe_load_all(block):
            if not isinstance(item, dict) or not {"apiVersion", "kind"} <= item.keys():
                continue
            if is_custom(item):
                validate(item)
            else:
                kubernetes_validate.validate(item, "1.33", strict=True)


def test_pip_commands_install_the_distribution_of_this_project(document: Path) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    text = document.read_text()
    named = re.findall(r"pip3? install [\"']?(tidemark[\w.-]*(?:\[[\w,-]+\])?)|\b(tidemark[\w.-]*\[[\w,-]+\])", text)
    for requirement in (Requirement(alone or with_extras) for alone, with_extras in named):
        assert requirement.name == project["name"]
        assert requirement.extras <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("mode", SidecarMode)
def test_every_injector_annotation_is_documented(mode: SidecarMode) -> None:
    with pytest.raises(InjectionRefused) as refused:
        read_injection_request({INJECT: mode}, {f"{ANNOTATIONS}qqqqqq": ""}, "/run/tidemark")
    _, found, keys = refused.value.faults[0].partition(f"with {mode} there are ")
    assert found
    rows = re.findall(r"^\| `([a-z-]+)` +\| ([a-z, ]+) \|", (CHECKOUT / "docs/install.md").read_text(), re.MULTILINE)
    explained = {name for name, modes in rows if modes.strip() == "all" or mode in modes}
    assert explained == set(keys.split(", "))


def test_documented_configurations_parse(document: Path) -> None:
    for block in blocks(document, "toml"):
        given = "" if "trust_domain" in block else 'trust_domain = "bus.example.com"\n'
        # the README shows both of two tables that exclude each other
        shown = re.sub(r"^fleet = .*$", "", block, flags=re.MULTILINE) if "[[agents]]" in block else block
        parse((given + shown).encode(), document.name, Path("/etc/tidemark"), {"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
