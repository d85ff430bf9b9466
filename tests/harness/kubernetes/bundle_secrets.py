"""Secrets with bundles, as the Kubernetes publisher writes them."""

import base64
from typing import Any

from authority.publishers.kubernetes import LIVE_SECRET
from tests.harness.kubernetes.apiserver import ApiServer
from tests.harness.kubernetes.kinds import SECRET
from tidemark.verify import VerifiedBundle


def secret_of(bundle: VerifiedBundle, name: str = LIVE_SECRET, namespace: str = "nats") -> dict[str, Any]:
    data = {"ca.crt": bundle.bundle.ca, "bundle.note": bundle.bundle.note}
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"metadata": {"name": name, "namespace": namespace}, "data": encoded, "type": "Opaque"}


def history(server: ApiServer) -> set[str]:
    """The names of the Secrets of the history."""
    found = server.store.select(
        SECRET, "tidemark", lambda one: "tidemark.io/history" in one["metadata"].get("labels", {})
    )
    return {one["metadata"]["name"] for one in found}
