"""docs/install.md tells of the injector what it does: its annotations are those of the code, its example works."""

import re

import yaml

from authority.injector.annotations import KEYS, SidecarMode
from tests.harness.kubernetes.injector_pods import environment, injected
from tests.harness.paths import DOCS

INSTALL = (DOCS / "install.md").read_text()
SECTION = INSTALL.partition("## The injector\n")[2].partition("\n## ")[0]


def test_install_page_lists_every_annotation_with_its_modes() -> None:
    documented = dict(re.findall(r"^\| `([a-z-]+)` +\| ([a-z, ]+?) +\|", SECTION, re.MULTILINE))
    known = {
        key: "all"
        if all(key in keys for keys in KEYS.values())
        else ", ".join(mode for mode in SidecarMode if key in KEYS[mode])
        for keys in KEYS.values()
        for key in keys
    }
    assert documented == known


def test_example_of_the_install_page_is_injected() -> None:
    text = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)[0]
    template = yaml.safe_load(text)["spec"]["template"]
    template["metadata"]["generateName"] = "invoices-5d59d67564-"
    made = injected({"apiVersion": "v1", "kind": "Pod", **template})
    assert environment(made)["TIDEMARK_TARGETS"] == "http://127.0.0.1:9000/-/reload"
    assert made["spec"]["initContainers"][0]["securityContext"]["runAsUser"] == 10001
