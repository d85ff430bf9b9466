"""Kubernetes as a target: a Secret in every namespace that asks for it, and in ours one for every statement.

The live Secret ``nats-ca-tls`` and, where it is missing, the trust ConfigMap go into the namespaces that are labelled
``tidemark.io/bundle=enabled``. Writing is by server-side apply with a field manager of our own, and only over the
version that was compared: whoever wrote a higher sequence meanwhile makes the write fail (docs/architecture.md,
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
from authority.kubernetes.informer import Failing, Informer
from authority.kubernetes.nudge import Nudge
from authority.kubernetes.raw_objects import table
from authority.kubernetes.secrets import MANAGED, bundle_in, bundle_secret, check_ours
from authority.kubernetes.selection import Selection
from authority.publishers.compare import compare
from authority.publishers.interface import PublishError, PublishOutcome, PublishResult, TargetContents, side_by_side
from authority.publishers.kubernetes_history import HISTORY_LABEL, history_name, is_past
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
_BREATH = 1.0  # seconds between two wakes, however often somebody changes what we watch


class KubernetesPublisher:
    """Implements ``Publisher``. ``home`` is the authority's own namespace, where the history goes."""

    name = "kubernetes"

    def __init__(self, client: KubernetesClient, trust: Trust, home: str, nudge: Nudge | None = None) -> None:
        self._client = client
        self._trust = trust
        self._home = home
        self._nudge = nudge
        self._watchers: WeakKeyDictionary[asyncio.Event, None] = WeakKeyDictionary()
        self._changed = asyncio.Event()

    async def publish(self, bundle: VerifiedBundle) -> PublishResult:
        """Make every labelled namespace show this bundle, and keep it in the history."""
        try:
            namespaces = await self._namespaces()
            live = {one.metadata.namespace: one for one in (await self._client.list(LIVE, lambda one: one)).items}
            trusted = set((await self._client.list(_TRUSTED, lambda one: one.metadata.namespace)).items)
        except KubernetesError as error:
            raise PublishError(str(error)) from None
        turns = asyncio.Semaphore(_AT_ONCE)

        async def bring(namespace: str) -> PublishOutcome:
            async with turns:
                found = live.get(namespace)
                outcome = await self._bring(namespace, _read(found) if found is not None else None, bundle)
                if namespace not in trusted:  # after what running agents wait for: they read theirs long ago
                    await self._create_trust(namespace)
                return outcome

        works = {_target(namespace): bring(namespace) for namespace in namespaces}
        brought = await side_by_side(works | {"history": self._keep_history(bundle)})
        for namespace in namespaces:
            if self._nudge is not None and _target(namespace) in brought.written:
                self._nudge.pods(namespace, LIVE_SECRET, f"{bundle.sequence}")
        return brought

    async def shown(self) -> tuple[TargetContents, ...]:
        """What every labelled namespace shows now."""
        try:
            namespaces = set(await self._namespaces())
            found = (await self._client.list(LIVE, lambda one: (one.metadata.namespace, _shown(one)))).items
        except KubernetesError as error:
            raise PublishError(str(error)) from None
        return tuple(shown for namespace, shown in found if namespace in namespaces)

    def watch(self, changed: asyncio.Event) -> None:
        """Set ``changed`` whenever a namespace was labelled, or a Secret of ours was changed or deleted."""
        self._watchers[changed] = None

    async def run(self, failed: Failing) -> None:
        """Watch, and nudge, until cancelled; ``failed`` takes what could not be watched."""
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
                await asyncio.sleep(_BREATH)

    async def _namespaces(self) -> tuple[str, ...]:
        """The labelled namespaces that are not being deleted."""
        found = await self._client.list(ENABLED, lambda one: "" if _is_going(one) else one.metadata.name)
        return tuple(name for name in found.items if name)

    async def _bring(self, namespace: str, found: Secret | None, bundle: VerifiedBundle) -> PublishOutcome:
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
            f"{target}: expected to write sequence {bundle.sequence}, found that somebody else keeps writing it"
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
        """Whom to believe: whoever wants something else there changes it, and it stays."""
        metadata = ObjectMeta(name=TRUST_CONFIG_MAP, namespace=namespace, labels=dict([MANAGED]))
        try:
            await self._client.create(ConfigMap(metadata=metadata, data={TRUST_FILE: self._trust.dump()}), namespace)
        except ObjectExists:
            return
        except KubernetesError as error:
            raise PublishError(str(error)) from None

    async def _keep_history(self, bundle: VerifiedBundle) -> PublishOutcome:
        """One Secret, never changed, for every statement that was published; those of past epochs go."""
        name = history_name(bundle.statement)
        kept = Selection(Secret, self._home, labels=(HISTORY_LABEL,))
        try:
            found = (await self._client.list(kept, lambda one: (_name(one), bundle_in(one)))).items
            if name not in dict(found):
                metadata = ObjectMeta(name=name, namespace=self._home, labels=dict([MANAGED, HISTORY_LABEL]))
                wanted = bundle_secret(metadata, bundle, type="Opaque")
                wanted.immutable = True
                await self._client.create(wanted, self._home)
            for old, shown in found:
                if old != name and is_past(old, shown, bundle.statement):
                    await self._client.delete(Secret, old, self._home)
        except ObjectExists:
            raise PublishError(
                f"secret {self._home}/{name}: expected this name to be free for the history, found a Secret without "
                f"our label there; delete it"
            ) from None
        except KubernetesError as error:
            raise PublishError(str(error)) from None
        return PublishOutcome.UNCHANGED


def _target(namespace: str) -> str:
    return f"secret {namespace}/{LIVE_SECRET}"


def _read(one: raw_objects.Secret) -> Secret:
    try:
        return msgspec.convert(one.raw, Secret)
    except msgspec.ValidationError as error:
        raise PublishError(
            f"{_target(one.metadata.namespace)}: expected a Secret, found {error}; delete it and it is written anew"
        ) from None


def _shown(one: raw_objects.Secret) -> TargetContents:
    target = _target(one.metadata.namespace)
    try:
        return TargetContents(target, bundle_in(_read(one)))
    except PublishError as error:
        return TargetContents(target, None, str(error))


def _is_going(one: raw_objects.Namespace) -> bool:
    return table(one.raw.get("metadata")).get("deletionTimestamp") is not None


def _name(one: Secret) -> str:
    return (one.metadata.name if one.metadata is not None else None) or ""
