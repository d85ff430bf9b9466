"""Schemas of the custom resources in manifests and documents, which Kubernetes' own schemas do not contain.

Every field that is used, and its type; a field that is not here was compared with no definition yet. These were with
those of prometheus-operator 0.80 (PodMonitor, ServiceMonitor, PrometheusRule) and of cert-manager 1.17 (Issuer,
Certificate): https://prometheus-operator.dev/docs/api-reference/api/, https://cert-manager.io/docs/reference/api-docs/.
jsonschema comes with kubernetes-validate.
"""

from collections.abc import Mapping
from typing import Any

import jsonschema

Schema = dict[str, Any]


def closed(required: Mapping[str, Schema], **optional: Schema) -> Schema:
    """An object with these fields and no others."""
    every = {**required, **optional}
    return {"type": "object", "properties": every, "required": list(required), "additionalProperties": False}


def several(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


TEXT: Schema = {"type": "string", "minLength": 1}
TEXTS = several(TEXT)
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
SECONDS: Schema = {"type": "string", "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$", "minLength": 2}
KEY = closed({"name": TEXT, "key": TEXT})
SELECTOR = closed({}, matchLabels=LABELS)

_SCRAPE = {"port": TEXT, "path": TEXT, "interval": SECONDS}
_POD_MONITOR = closed(
    {"selector": SELECTOR, "podMetricsEndpoints": several(closed(_SCRAPE))},
    namespaceSelector=closed({}, any={"type": "boolean"}),
)
_TLS = closed({"serverName": TEXT, "ca": closed({"configMap": KEY})})
_SERVICE_MONITOR = closed(
    {
        "selector": SELECTOR,
        "endpoints": several(closed({**_SCRAPE, "scheme": {"enum": ["http", "https"]}, "tlsConfig": _TLS})),
    },
    namespaceSelector=closed({}, matchNames=TEXTS),
)
_RULE: Schema = {
    "oneOf": [
        closed({"record": TEXT, "expr": TEXT}),
        closed({"alert": TEXT, "expr": TEXT}, labels=LABELS, annotations=LABELS, **{"for": SECONDS}),
    ]
}
_PROMETHEUS_RULE = closed({"groups": several(closed({"name": TEXT, "rules": several(_RULE)}))})
_ISSUER = closed(
    {
        "vault": closed(
            {
                "server": TEXT,
                "path": TEXT,
                "caBundleSecretRef": KEY,
                "auth": closed(
                    {
                        "kubernetes": closed(
                            {"role": TEXT, "mountPath": TEXT, "serviceAccountRef": closed({"name": TEXT})}
                        )
                    }
                ),
            }
        )
    }
)
_KEYS = closed(
    {
        "algorithm": {"enum": ["RSA", "ECDSA", "Ed25519"]},
        "size": {"type": "integer"},
        "rotationPolicy": {"enum": ["Never", "Always"]},
    }
)
_CERTIFICATE = closed(
    {
        "secretName": TEXT,
        "issuerRef": closed({"name": TEXT}),
        "commonName": {"type": "string", "maxLength": 64},
        "dnsNames": TEXTS,
        "ipAddresses": TEXTS,
        "usages": several({"enum": ["server auth", "client auth", "digital signature", "key encipherment"]}),
        "privateKey": _KEYS,
        "duration": SECONDS,
        "renewBefore": SECONDS,
    }
)
SPECS: dict[tuple[str, str], Schema] = {
    ("monitoring.coreos.com/v1", "PodMonitor"): _POD_MONITOR,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _SERVICE_MONITOR,
    ("monitoring.coreos.com/v1", "PrometheusRule"): _PROMETHEUS_RULE,
    ("cert-manager.io/v1", "Issuer"): _ISSUER,
    ("cert-manager.io/v1", "Certificate"): _CERTIFICATE,
}


def is_custom(item: Mapping[str, Any]) -> bool:
    """Whether the object is a custom resource."""
    group, _, _ = item["apiVersion"].partition("/")
    return "." in group and not group.endswith(".k8s.io")


def validate(item: Mapping[str, Any]) -> None:
    """Raises jsonschema.ValidationError; KeyError for a kind that is not known here."""
    metadata = closed({"name": TEXT}, namespace=TEXT, labels=LABELS, annotations=LABELS)
    wanted = {"apiVersion": TEXT, "kind": TEXT, "metadata": metadata, "spec": SPECS[item["apiVersion"], item["kind"]]}
    jsonschema.validate(item, closed(wanted))
