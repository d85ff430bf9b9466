"""Where the Kubernetes API server is, and its credentials: a kubeconfig file, or the pod's service account."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml
from lightkube.config.client_adapter import user_auth, verify_cluster
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import Cluster, User
from lightkube.core.exceptions import ConfigError

from authority.kubernetes.errors import KubernetesError
from authority.support.reloading_tls import ReloadingSSLContext


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """A kubeconfig file; ``context`` "" is the file's current context."""

    file: Path
    context: str = ""


@dataclass(frozen=True, slots=True)
class InCluster:
    """The pod's own service account, as the kubelet mounts it; ``server`` is the API server's URL.

    https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
    """

    server: str
    account: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")


KubernetesAccess = Kubeconfig | InCluster


def connection(access: KubernetesAccess) -> tuple[SingleConfig, ssl.SSLContext]:
    """The configuration and the TLS context of lightkube. The files of CA and client certificate may be replaced.

    Raises KubernetesError, which names the file that is not usable.
    """
    config, _ = _read(access)
    return config, ReloadingSSLContext(lambda: _read(access)[1], KubernetesError)


def _read(access: KubernetesAccess) -> tuple[SingleConfig, ssl.SSLContext]:
    """Read the files. Raises KubernetesError."""
    source = access.file if isinstance(access, Kubeconfig) else access.account
    try:
        config = _from_file(access) if isinstance(access, Kubeconfig) else _from_account(access)
        user_auth(config.user)
        context = _context(config, config.user or User())
    except OSError as error:
        found = f"{error.filename or ''} {error.strerror or error}".strip()
    except KeyError as error:
        found = f"no {error}"
    except (ConfigError, ValueError, TypeError, yaml.YAMLError, msgspec.MsgspecError) as error:
        found = str(error)
    else:
        # httpcore does this for a context that it makes itself.
        context.set_alpn_protocols(["http/1.1"])
        return config, context
    raise KubernetesError(f"{source}: expected credentials for Kubernetes, found: {found}") from None


def _context(config: SingleConfig, user: User) -> ssl.SSLContext:
    try:
        return verify_cluster(config.cluster, user, config.abs_file)
    except OSError as error:  # ssl's errors seldom name the file
        files = (config.cluster.certificate_auth, user.client_cert, user.client_key)
        named = ", ".join(filter(None, files)) or "the certificates in it"
        raise ConfigError(f"{named}: {error.strerror or error}") from None


def _from_file(access: Kubeconfig) -> SingleConfig:
    values = yaml.safe_load(access.file.read_bytes())
    if not isinstance(values, dict):
        raise ConfigError("no kubeconfig")
    config = KubeConfig.from_dict(values, fname=access.file).get(access.context or None)
    if config is None:
        raise ConfigError("no current context")
    return config if config.user is not None else config._replace(user=User())


def _from_account(access: InCluster) -> SingleConfig:
    token, namespace = access.account / "token", (access.account / "namespace").read_text().strip()
    with token.open():
        # A check that it can be read; lightkube reads it, and again whenever the API server refuses the last token.
        pass
    cluster = Cluster(server=access.server, certificate_auth=str(access.account / "ca.crt"))
    config = KubeConfig.from_one(cluster=cluster, user=User(token_file=str(token)), namespace=namespace).get()
    if config is None:
        raise ConfigError("no current context")
    return config
