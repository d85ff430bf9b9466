"""Warnings of ``check-config``: settings that are allowed and cause trouble; one sentence each, key first; pure."""

import ipaddress
from collections.abc import Iterator

from authority.config.load import ENCRYPTION_VARIABLE, ApiConfig, AuthorityConfig
from authority.pki.keystore import KeyType
from tidemark.epoch import RELOAD_SECONDS
from tidemark.receipt import PodClass

CERT_MANAGER_SECONDS = 3600
"""The shortest lifetime that cert-manager gives a certificate."""

KUBELET_SECONDS = 90
"""How long a kubelet may take to update a mount after a Secret changed."""

_SPARE = 10  # a leaf should have a tenth of its life to spare
_RSA_SECONDS = 60  # making an RSA key may take seconds


def warnings(config: AuthorityConfig) -> list[str]:
    """The warnings of this configuration."""
    return [*_clock(config), *_trust(config), *_fleet(config), *_api(config.api)]


def _clock(config: AuthorityConfig) -> Iterator[str]:
    timing, clock = config.timing, config.timing.clock
    if config.openbao is not None and clock.validity_seconds - 2 * clock.epoch_seconds < CERT_MANAGER_SECONDS:
        yield (
            f"clock.validity_seconds: {clock.validity_seconds} less two epochs of {clock.epoch_seconds} s is below "
            f"cert-manager's shortest lifetime, {CERT_MANAGER_SECONDS} s: its certificates would outlive the CA that "
            f"signs them while a rotation is held; let the authority write the leaves ([[leaves]])"
        )
    arrival = KUBELET_SECONDS + timing.splay_seconds + RELOAD_SECONDS
    if config.kubernetes is not None and not config.kubernetes.nudge and clock.prepare_seconds <= arrival:
        yield (
            f"clock.prepare_seconds: {clock.prepare_seconds} s; an agent that has its mounted Secret alone may prove "
            f"as late as {arrival} s after the CA was made, and every rotation is held until then; prepare earlier, "
            f"set kubernetes.nudge, or give the agents JetStream as a second source"
        )
    spare = timing.leaf_seconds // 2 - timing.tolerance_seconds - timing.delivery_seconds
    if config.leaves and spare < timing.leaf_seconds // _SPARE:
        yield (
            f"clock.leaf_seconds: after half of {timing.leaf_seconds} s, less {timing.tolerance_seconds} s of "
            f"tolerance and {timing.delivery_seconds} s for the delivery, {spare} s are left to repair "
            f"what keeps leaves from being renewed"
        )
    if config.key_type is KeyType.RSA_4096 and clock.prepare_seconds < _RSA_SECONDS:
        yield (
            f"key_type: an RSA key may take seconds to make, of the {clock.prepare_seconds} s in which an epoch's CA "
            f"is made, published and proven"
        )


def _trust(config: AuthorityConfig) -> Iterator[str]:
    if config.include_root:
        yield (
            "include_root: with the root in every bundle, peers that trust a chain up to it go on trusting a revoked "
            "CA until it expires; false makes a revocation cut off at once, where every peer takes an intermediate as "
            "an anchor"
        )
    if config.openbao is None and config.passphrase is None:
        yield (
            f"{ENCRYPTION_VARIABLE}: not set, so root, CA and signing keys lie in {config.state} unencrypted, readable "
            f"by anyone who reads its backups"
        )


def _fleet(config: AuthorityConfig) -> Iterator[str]:
    is_of_pods = config.kubernetes is not None and config.kubernetes.fleet
    if not config.agents and not is_of_pods:
        yield (
            "agents: none is expected, and an empty fleet keeps every gate closed: each CA would wait for the last "
            "resort, or for an override"
        )
    elif config.agents and all(agent.pod_class is PodClass.APPLICATION for agent in config.agents):
        yield (
            "agents: none is of class 'required': a gate opens at its deadline though most have proven nothing, as "
            "soon as one has"
        )
    if not config.directories and config.jetstream is None and config.kubernetes is None:
        yield "publish: no target: bundles are signed, and no agent gets them"
    if config.jetstream is not None and config.jetstream.replicas % 2 == 0:
        yield (
            f"publish.jetstream.replicas: {config.jetstream.replicas} survive no more servers than "
            f"{config.jetstream.replicas - 1} do"
        )


def _api(api: ApiConfig) -> Iterator[str]:
    if _is_loopback(api.listen.host):
        return
    where = f"{api.listen.host}:{api.listen.port}"
    if api.open_reads:
        yield (
            f"api.open_reads: on {where} anyone who reaches it can read which agents and CAs there are; false "
            f"requires a token"
        )
    if all(map(_is_loopback, api.names)):
        yield (
            f"api.names: {', '.join(api.names)}: agents on other machines cannot verify the API on {where} by any of "
            f"these; add the name that they use"
        )
    if api.listen.port == 0:
        yield "api.listen: port 0 is another port at every start, which agents on other machines do not learn"


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
