"""Which Secrets the authority refuses to write over."""

import pytest
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Secret

from authority.kubernetes.errors import ObjectNotOurs
from authority.kubernetes.secrets import CERT_MANAGER, check_ours


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (Secret(type="kubernetes.io/tls"), "secret nats/a: expected a Secret of type Opaque, found kubernetes.io/tls"),
        (Secret(immutable=True), "secret nats/a: expected a Secret that can be changed, found it immutable"),
        (
            Secret(metadata=ObjectMeta(annotations={CERT_MANAGER: "web"})),
            "secret nats/a: expected to be its only writer, found cert-manager's Certificate 'web'",
        ),
    ],
)
def test_secret_that_is_not_ours_is_refused_with_the_reason(found: Secret, message: str) -> None:
    with pytest.raises(ObjectNotOurs, match=message):
        check_ours("secret nats/a", found, "Opaque")


@pytest.mark.parametrize("found", [Secret(), Secret(type="Opaque", metadata=ObjectMeta(annotations={"a": "b"}))])
def test_secret_that_is_ours_passes(found: Secret) -> None:
    check_ours("secret nats/a", found, "Opaque")
