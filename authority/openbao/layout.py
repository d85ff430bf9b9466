"""The mounts and names in OpenBao, and the least policy with which the authority can work there; pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpenBaoLayout:
    """Mounts, and the names of what the authority keeps in them."""

    root: str = "pki"  # the roots: the default issuer signs, every self-signed issuer is trusted
    intermediate: str = "nats_int"  # the CAs of the epochs; its default issuer is the activated one
    control: str = "control"  # the control CA
    transit: str = "transit"
    kv: str = "secret"
    prefix: str = "ca-bundles"  # of the journal, in ``kv``
    role: str = "tidemark"  # of leaves in ``intermediate``, of the API's certificate in ``control``
    key: str = "tidemark"  # of statements, in ``transit``

    def policy(self) -> str:
        """HCL for ``bao policy write``: what a running authority needs beside OpenBao's policy ``default``."""
        return "\n".join(_rule(path, *rule) for path, rule in self._rules().items())

    def _rules(self) -> "dict[str, tuple[str, str]]":
        """Capabilities, and further attributes, by path."""
        root, intermediate, data, metadata = (
            self.root,
            self.intermediate,
            f"{self.kv}/data/{self.prefix}",
            f"{self.kv}/metadata/{self.prefix}",
        )
        return {
            f"{root}/issuers": ("list", ""),
            f"{root}/issuer/+/sign-intermediate": ("update", _NO_CA_BELOW),
            f"{intermediate}/issuers": ("list", ""),
            f"{intermediate}/keys": ("list", ""),
            f"{intermediate}/keys/generate/internal": ("update", ""),
            f"{intermediate}/intermediate/generate/existing": ("update", ""),
            f"{intermediate}/intermediate/set-signed": ("update", ""),
            f"{intermediate}/issuer/+": ("patch, delete", ""),
            f"{intermediate}/key/+": ("delete", ""),
            f"{intermediate}/config/issuers": ("update", ""),
            f"{intermediate}/issuer/+/sign/{self.role}": ("update", ""),
            f"{self.control}/issuers": ("list", ""),
            f"{self.control}/sign/{self.role}": ("update", ""),
            f"{self.transit}/keys/{self.key}": ("read", ""),
            f"{self.transit}/sign/{self.key}": ("update", ""),
            f"{data}/*": ("create, read, update", ""),
            f"{metadata}/*": ("list, delete", ""),
        }


_NO_CA_BELOW = """\
  required_parameters = ["max_path_length"]
  allowed_parameters = {
    "max_path_length" = ["0"]
    "*" = []
  }
"""


def _rule(path: str, capabilities: str, more: str) -> str:
    quoted = ", ".join(f'"{capability}"' for capability in capabilities.split(", "))
    return f'path "{path}" {{\n  capabilities = [{quoted}]\n{more}}}\n'
