"""The pod security standard "restricted": https://kubernetes.io/docs/concepts/security/pod-security-standards.

Each control yields the violations in the spec of a pod.
"""

from collections.abc import Iterator
from typing import Any

from tests.harness.manifests.build import containers

_VOLUMES = {
    "name",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}
_SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def violations(spec: dict[str, Any]) -> list[str]:
    """The violations of the level in this pod, a sentence each."""
    return [*_pod(spec), *(f"{each['name']}: {fault}" for each in containers(spec) for fault in _container(spec, each))]


def _pod(spec: dict[str, Any]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is set"
    for volume in spec.get("volumes", []):
        for kind in volume.keys() - _VOLUMES:
            yield f"volume {volume['name']} is a {kind}"
    for sysctl in spec.get("securityContext", {}).get("sysctls", []):
        if sysctl["name"] not in _SAFE_SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    yield from _any_level("the pod", spec.get("securityContext", {}))


def _container(spec: dict[str, Any], container: dict[str, Any]) -> Iterator[str]:
    of_pod, own = spec.get("securityContext", {}), container.get("securityContext", {})
    yield from _any_level("it", own)
    if own.get("privileged"):
        yield "it is privileged"
    if own.get("procMount", "Default") != "Default":
        yield "procMount is not the default"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "a hostPort"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if (of_pod | own).get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if (of_pod | own).get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile is neither RuntimeDefault nor Localhost"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities are not all dropped"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"capabilities {capabilities['add']} are added"


def _any_level(whose: str, context: dict[str, Any]) -> Iterator[str]:
    if context.get("runAsUser") == 0:
        yield f"{whose} runs as root"
    if context.get("seccompProfile", {}).get("type") == "Unconfined":
        yield f"{whose} has no seccomp profile"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in ("RuntimeDefault", "Localhost"):
        yield f"{whose} has no AppArmor profile"
    options = context.get("seLinuxOptions", {})
    if options.get("type", "") not in _SELINUX_TYPES or options.get("user") or options.get("role"):
        yield f"{whose} sets SELinux options"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{whose} is a process of the host"
