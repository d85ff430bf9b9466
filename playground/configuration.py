"""The configuration text of every program in the playground; pure."""

from pathlib import Path

from authority.config.load import IssuerKind
from playground.layout import HOST, OPENBAO_ROLE, TRUST_DOMAIN, ApplicationPod, Layout, ServerPod


def nats_conf(server: ServerPod, layout: Layout) -> str:
    """The configuration of one nats-server: mutual TLS for clients and routes, and JetStream."""
    routes = ", ".join(f"nats-route://{HOST}:{other.route_port}" for other in layout.servers if other is not server)
    tls = (
        f'{{ cert_file: "{server.out}/tls.crt", key_file: "{server.out}/tls.key", ca_file: "{server.out}/ca.crt", '
        "verify: true, timeout: 5 }"
    )
    return f"""\
server_name: {server.name}
listen: {HOST}:{server.client_port}
http: {HOST}:{server.monitor_port}
pid_file: "{server.pid_file}"
tls: {tls}
cluster {{
  name: playground
  listen: {HOST}:{server.route_port}
  routes: [{routes}]
  tls: {tls}
}}
jetstream {{ store_dir: "{server.root}/jetstream", max_memory_store: 512MB, max_file_store: 1GB }}
"""


def authority_toml(layout: Layout, preset: str, issuer: IssuerKind) -> str:
    """The authority's configuration: one bundle directory and one leaf directory for each pod, and JetStream."""
    lines = [
        f'trust_domain = "{TRUST_DOMAIN}"',
        f'state = "{layout.authority_state}"',
        f'preset = "{preset}"',
        f'issuer = "{issuer}"',
        *(_openbao(layout) if issuer is IssuerKind.OPENBAO else ()),
        "[api]",
        f'listen = "{HOST}:{layout.authority_port}"',
        f'names = ["localhost", "{HOST}"]',
        "[publish.jetstream]",
        f"servers = [{', '.join(repr(server.url) for server in layout.servers)}]",
        f'directory = "{layout.authority_state / "nats"}"',
        f"replicas = {len(layout.servers)}",
    ]
    for pod in layout.pods:
        pod_class = "application" if isinstance(pod, ApplicationPod) else "required"
        lines += ["[[agents]]", f'name = "{pod.name}"', f'class = "{pod_class}"']
        lines += ["[[publish.directory]]", f'path = "{pod.bundle_mount}"']
        lines += ["[[leaves]]", f'name = "{pod.name}"', f'directory = "{pod.leaf_mount}"']
        lines += ['dns = ["localhost"]', f'ip = ["{HOST}"]']
    return "\n".join(lines) + "\n"


def _openbao(layout: Layout) -> list[str]:
    return [
        "[openbao]",
        f'url = "{layout.openbao_url}"',
        f'ca_file = "{layout.openbao_ca}"',
        f'role_id = "{OPENBAO_ROLE}"',
    ]


def agent_environment(pod: ServerPod | ApplicationPod, layout: Layout, token_file: Path) -> dict[str, str]:
    """The environment of the agent beside one pod's workload."""
    return {
        "TIDEMARK_BUNDLE": str(pod.bundle_mount),
        "TIDEMARK_LEAF": str(pod.leaf_mount),
        "TIDEMARK_TRUST": str(layout.trust_file),
        "TIDEMARK_OUT": str(pod.out),
        "TIDEMARK_TARGETS": pod.target,
        "TIDEMARK_POD": pod.name,
        "TIDEMARK_POD_UID": f"uid-{pod.name}",
        "TIDEMARK_CLASS": "application" if isinstance(pod, ApplicationPod) else "required",
        "TIDEMARK_AUTHORITY_URL": layout.authority_url,
        "TIDEMARK_AUTHORITY_TOKEN_FILE": str(token_file),
        "TIDEMARK_LISTEN": f"{HOST}:{pod.agent_port}",
    }
