"""Kubernetes as a target: a Secret in every namespace that asks for the bundle, and the history in our own.

The live Secret ``nats-ca-tls`` and, where it is missing, the trust ConfigMap go into the namespaces that are labelled
``tidemark.io/bundle=enabled``. A write is a server-side apply with a field manager of our own, over the version that
was compared: where another authority has written a higher sequence meanwhile, it fails (docs/architecture.md,
invariant 8).
"""

import asyncio
from weakref import WeakKeyDictionary

import msgspec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap, Secret

from authority.kubernetes import raw_objects
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.errors import KubernetesError, ObjectConflict, ObjectExists
from authority.kubernetes.informer import Informer, WatchFailed
from authority.kubernetes.nudge import Nudge
from authority.kubernetes.raw_objects import fields_of
from authority.kubernetes.secrets import MANAGED, bundle_in, bundle_secret, check_ours
from authority.kubernetes.selection import Selection
from authority.publishers.compare import compare
from authority.publishers.interface import PublishError, PublishOutcome, PublishResult, TargetContents, side_by_side
from authority.publishers.kubernetes_history import BundleHistory
from tidemark.trust import Trust
from tidemark.verify import VerifiedBundle

LIVE_SECRET = "nats-ca-tls"  # noqa: S105 - a name

TRUST_CONFIG_MAP = "tidemark-trust"
TRUST_FILE = "trust.toml"

ENABLED_LABEL = ("tidemark.io/bundle", "enabled")

ENABLED = Selection(raw_objects.Namespace, labels=(ENABLED_LABEL,))
LIVE = Selection(raw_objects.Secret, fields=(("metadata.name", LIVE_SECRET),))
_TRUSTED = Selection(raw_objects.ConfigMap, fields=(("metadata.name", TRUST_CONFIG_MAP),))

_AT_ONCE = 16  # namespaces that are written at the same time
_TRIES = 3  # over what others write at the same time
_WAKE_SECONDS = 1.0  # between two wakes of the watchers, however often objects change


class KubernetesPublisher:
    """Implements ``Publisher``. ``home`` is the authority's own namespace, where the history goes."""

    name = "kubernetes"

    def __init__(self, client: KubernetesClient, trust: Trust, home: str, nudge: Nudge | None = None) -> None:
        self._client = client
        self._trust = trust
        self._history = BundleHistory(client, home)
        self._nudge = nudge
        self._watchers: WeakKeyDictionary[asyncio.Event, None] = WeakKeyDictionary()
        self._changed = asyncio.Event()

    async def publish(self, bundle: VerifiedBundle) -> PublishResult:
        """Make every labelled namespace show this bundle, and keep it in the history."""
        try:
            namespaces = await self._namespaces()
            secrets = (await self._client.list(LIVE, lambda secret: secret)).items
            trusting = set((await self._client.list(_TRUSTED, lambda found: found.metadata.namespace)).items)
        except KubernetesError as error:
            raise PublishError(str(error)) from None
        live = {secret.metadata.namespace: secret for secret in secrets}
        turns = asyncio.Semaphore(_AT_ONCE)

        async def publish_to(namespace: str) -> PublishOutcome:
            async with turns:
                found = live.get(namespace)
                outcome = await self._publish_to(namespace, _parse(found) if found is not None else None, bundle)
                # The bundle first: running agents wait for it, and have read their trust file long ago.
                if namespace not in trusting:
                    await self._create_trust(namespace)
                return outcome

        work = {_target(namespace): publish_to(namespace) for namespace in namespaces}
        result = await side_by_side(work | {"history": self._history.record(bundle)})
        for namespace in namespaces:
            if self._nudge is not None and _target(namespace) in result.written:
                self._nudge.pods(namespace, LIVE_SECRET, f"{bundle.sequence}")
        return result

    async def read(self) -> tuple[TargetContents, ...]:
        """What every labelled namespace shows now."""
        try:
            namespaces = set(await self._namespaces())
            found = (await self._client.list(LIVE, lambda secret: (secret.metadata.namespace, _contents(secret)))).items
        except KubernetesError as error:
            raise PublishError(str(error)) from None
        return tuple(contents for namespace, contents in found if namespace in namespaces)

    def watch(self, changed: asyncio.Event) -> None:
        """Set ``changed`` whenever a namespace was labelled, or a live Secret was changed or deleted."""
        self._watchers[changed] = None

    async def run(self, failed: WatchFailed) -> None:
        """Watch the targets and nudge pods until cancelled; ``failed`` takes what could not be watched."""
        namespaces = Informer(self._client, ENABLED, lambda _: None, self._changed.set, failed)
        secrets = Informer(self._client, LIVE, lambda _: None, self._changed.set, failed)
        async with asyncio.TaskGroup() as group:
            group.create_task(namespaces.run(), name="watch namespaces")
            group.create_task(secrets.run(), name="watch secrets")
            if self._nudge is not None:
                group.create_task(self._nudge.run(), name="nudge")
            while True:
                await self._changed.wait()
                self._changed.clear()
                for watcher in self._watchers:
                    watcher.set()
                await asyncio.sleep(_WAKE_SECONDS)

    async def _namespaces(self) -> tuple[str, ...]:
        """The labelled namespaces that are not being deleted."""
        found = await self._client.list(ENABLED, lambda each: "" if _is_terminating(each) else each.metadata.name)
        return tuple(name for name in found.items if name)

    async def _publish_to(self, namespace: str, found: Secret | None, bundle: VerifiedBundle) -> PublishOutcome:
        target = _target(namespace)
        try:
            for _ in range(_TRIES):
                outcome = compare(target, bundle_in(found) if found is not None else None, bundle, self._trust)
                if outcome is not PublishOutcome.WRITTEN:
                    return outcome
                try:
                    await self._write(namespace, found, bundle)
                except (ObjectConflict, ObjectExists):
                    found = await self._client.get(Secret, LIVE_SECRET, namespace)
                    continue
                return outcome
        except KubernetesError as error:
            raise PublishError(str(error)) from None
        raise PublishError(
            f"{target}: expected to write sequence {bundle.sequence}, found that another program keeps writing it"
        )

    async def _write(self, namespace: str, found: Secret | None, bundle: VerifiedBundle) -> None:
        metadata = ObjectMeta(name=LIVE_SECRET, namespace=namespace, labels=dict([MANAGED]))
        if found is None:
            await self._client.create(bundle_secret(metadata, bundle, type="Opaque"), namespace)
            return
        check_ours(_target(namespace), found, "Opaque")
        metadata.resourceVersion = found.metadata.resourceVersion if found.metadata is not None else None
        await self._client.apply(bundle_secret(metadata, bundle), namespace)

    async def _create_trust(self, namespace: str) -> None:
        """Create the agents' trust file; one that exists stays, as an operator may have changed it."""
        metadata = ObjectMeta(name=TRUST_CONFIG_MAP, namespace=namespace, labels=dict([MANAGED]))
        try:
            await self._client.create(ConfigMap(metadata=metadata, data={TRUST_FILE: self._trust.dump()}), namespace)
        except ObjectExists:
            return
        except KubernetesError as error:
            raise PublishError(str(error)) from None


def _target(namespace: str) -> str:
    return f"secret {namespace}/{LIVE_SECRET}"


def _parse(secret: raw_objects.Secret) -> Secret:
    try:
        return msgspec.convert(secret.raw, Secret)
    except msgspec.ValidationError as error:
        raise PublishError(
            f"{_target(secret.metadata.namespace)}: expected a Secret, found {error}; delete it and it is written again"
        ) from None


def _contents(secret: raw_objects.Secret) -> TargetContents:
    target = _target(secret.metadata.namespace)
    try:
        return TargetContents(target, bundle_in(_parse(secret)))
    except PublishError as error:
        return TargetContents(target, None, str(error))


def _is_terminating(namespace: raw_objects.Namespace) -> bool:
    return fields_of(namespace.raw.get("metadata")).get("deletionTimestamp") is not None
