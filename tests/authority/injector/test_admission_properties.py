"""Whatever the pod: the result is valid, adding twice adds once, and nothing that was there is changed."""

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authority.injector.admission import decide
from tests.harness.kubernetes.admission_reviews import MINORS, Json, admitted, check_valid, review
from tests.harness.kubernetes.injector_pods import SETTINGS, pods

pytestmark = pytest.mark.long

SET_BY_US = {
    *("tidemark.io/agent", "tidemark.io/class", "tidemark.io/injected"),
    *("prometheus.io/scrape", "prometheus.io/port", "prometheus.io/path"),
}


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(pods(awkward=False), st.sampled_from(MINORS))
def test_injected_pod_is_valid_and_complete_and_not_injected_again(made: Json, minor: str) -> None:
    check_injected(made, minor)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(pods(awkward=True), st.sampled_from(MINORS))
def test_any_pod_is_injected_or_refused_with_sentences(made: Json, minor: str) -> None:
    response = decide(review(made), SETTINGS).response()["response"]
    if response["allowed"]:
        check_injected(made, minor)
    else:
        assert ": expected " in response["status"]["message"]
        assert "patch" not in response


def check_injected(made: Json, minor: str) -> None:
    first = decide(review(made), SETTINGS)
    result = admitted(made, first.response())
    assert result["spec"]["initContainers"][0]["name"] == "tidemark-agent"
    check_valid(result, [minor])
    assert others(without_ours(result)) == others(made)
    again = decide(review(result), SETTINGS)
    assert (again.refusal, again.patch) == ("", ())
    assert decide(review(made), SETTINGS).patch == first.patch


def without_ours(result: Json) -> Json:
    made = copy.deepcopy(result)
    agent = made["spec"]["initContainers"].pop(0)
    ours = {mount["name"] for mount in agent["volumeMounts"]}
    made["spec"]["volumes"] = [volume for volume in made["spec"]["volumes"] if volume["name"] not in ours]
    for one in [*made["spec"]["initContainers"], *made["spec"]["containers"]]:
        one["volumeMounts"] = [mount for mount in one.get("volumeMounts", []) if mount["name"] not in ours]
    return made


def others(made: Json) -> Json:
    """Everything but what the injector may set; an empty list is none."""
    made = copy.deepcopy(made)
    made["spec"].pop("shareProcessNamespace", None)
    for key in ("labels", "annotations"):
        found = made["metadata"].pop(key, {})
        made["metadata"][key] = {name: value for name, value in found.items() if name not in SET_BY_US}
    return dict(without_empty(made))


def without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_empty(inner) for name, inner in value.items() if inner not in ([], {})}
    return [without_empty(inner) for inner in value] if isinstance(value, list) else value
