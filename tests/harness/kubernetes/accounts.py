"""Authentication and authorization at the fake API server: bearer tokens, TokenReview and RBAC.

https://kubernetes.io/docs/reference/access-authn-authz/: a projected service-account token has audiences and an end,
and dies with the pod that it is bound to; ``resourceNames`` allow a list or watch only of exactly that name.
"""

import base64
import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

API_AUDIENCE = "https://kubernetes.default.svc.cluster.local"
ADMIN = "kubernetes-admin"


@dataclass(frozen=True)
class Token:
    """``pod`` is (namespace, name, uid) where the token is bound to one."""

    user: str
    uid: str
    audiences: tuple[str, ...]
    expires_at: float
    pod: tuple[str, str, str] | None = None
    begins_at: float = 0.0

    def user_info(self) -> Json:
        _, _, rest = self.user.partition("system:serviceaccount:")
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{rest.partition(':')[0]}", "system:authenticated"]
        extra = {"authentication.kubernetes.io/credential-id": ["JTI=" + self.uid]}
        if self.pod is not None:
            extra |= {
                "authentication.kubernetes.io/pod-name": [self.pod[1]],
                "authentication.kubernetes.io/pod-uid": [self.pod[2]],
            }
        return {"username": self.user, "uid": self.uid, "groups": groups, "extra": extra}

    def claims(self) -> Json:
        """The claims of the JWT; OpenBao reads some of them before it asks for a review."""
        namespace, _, account = self.user.removeprefix("system:serviceaccount:").partition(":")
        names: Json = {"namespace": namespace, "serviceaccount": {"name": account, "uid": self.uid}}
        claims = {"iss": API_AUDIENCE, "sub": self.user, "aud": list(self.audiences), "kubernetes.io": names}
        if self.expires_at == float("inf"):
            return claims
        return claims | {"nbf": int(self.begins_at), "iat": int(self.begins_at), "exp": int(self.expires_at)}


@dataclass(frozen=True)
class Wish:
    """The attributes of a request, as RBAC judges them; ``name`` "" is any."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str


@dataclass(frozen=True)
class Rule:
    """One rule of a role; ``namespace`` "" is the whole cluster (a ClusterRoleBinding)."""

    verbs: frozenset[str]
    groups: frozenset[str]
    resources: frozenset[str]
    names: frozenset[str] = frozenset()
    namespace: str = ""

    def allows(self, wish: Wish) -> bool:
        return (
            wish.verb in self.verbs
            and wish.group in self.groups
            and wish.resource in self.resources
            and self.namespace in ("", wish.namespace)
            and (not self.names or wish.name in self.names)
        )


def rules_of(manifests: Iterable[Json]) -> dict[str, list[Rule]]:
    """Rules by user, from Roles, ClusterRoles and their bindings to service accounts."""
    roles: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    documents = list(manifests)
    for one in documents:
        if one["kind"] in ("Role", "ClusterRole"):
            roles[one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]] = one["rules"]
    found: dict[str, list[Rule]] = {}
    for one in documents:
        if one["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        namespace, reference = one["metadata"].get("namespace", ""), one["roleRef"]
        where = namespace if reference["kind"] == "Role" else ""
        for subject in one["subjects"]:
            user = f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
            found.setdefault(user, []).extend(
                Rule(
                    frozenset(rule["verbs"]),
                    frozenset(rule["apiGroups"]),
                    frozenset(rule["resources"]),
                    frozenset(rule.get("resourceNames", ())),
                    namespace,
                )
                for rule in roles[reference["kind"], where, reference["name"]]
            )
    return found


@dataclass
class Accounts:
    """Tokens that the server knows, and the rights of their holders; the administrator has every right."""

    clock: Callable[[], float]
    pod_exists: Callable[[tuple[str, str, str]], bool]
    rules: dict[str, list[Rule]] = field(default_factory=dict)
    _tokens: dict[str, Token] = field(default_factory=dict)

    def administrator(self) -> str:
        return self._keep(Token(ADMIN, "admin", (API_AUDIENCE,), float("inf")))

    def issue(
        self,
        namespace: str,
        account: str,
        *,
        audience: str = API_AUDIENCE,
        pod: tuple[str, str] | None = None,
        seconds: float = 3600,
    ) -> str:
        """A projected token of a service account; ``pod`` is name and uid of the pod it is bound to."""
        bound = (namespace, *pod) if pod else None
        user = f"system:serviceaccount:{namespace}:{account}"
        now = self.clock()
        return self._keep(Token(user, secrets.token_hex(8), (audience,), now + seconds, bound, now))

    def expire(self, token: str) -> None:
        del self._tokens[token]

    def authenticate(self, token: str) -> Token | None:
        """The account that sends a request."""
        found = self._living(token)
        return found if found is not None and API_AUDIENCE in found.audiences else None

    def review(self, spec: Json) -> Json:
        """The status of a TokenReview."""
        asked = spec.get("audiences") or [API_AUDIENCE]
        found = self._living(str(spec.get("token", "")))
        if found is None:
            return {"user": {}, "error": "[invalid bearer token, service account token has expired]"}
        audiences = [audience for audience in asked if audience in found.audiences]
        if not audiences:
            detail = f"token audiences {list(found.audiences)!r} is invalid for the target audiences {asked!r}"
            return {"user": {}, "error": f"[invalid bearer token, {detail}]"}
        return {"authenticated": True, "user": found.user_info(), "audiences": audiences}

    def allows(self, user: str, wish: Wish) -> bool:
        return user == ADMIN or any(rule.allows(wish) for rule in self.rules.get(user, ()))

    def _keep(self, token: Token) -> str:
        text = f"{_part({'alg': 'RS256', 'typ': 'JWT'})}.{_part(token.claims())}.{secrets.token_urlsafe(256)}"
        self._tokens[text] = token
        return text

    def _living(self, token: str) -> Token | None:
        found = self._tokens.get(token)
        if found is None or found.expires_at <= self.clock():
            return None
        return found if found.pod is None or self.pod_exists(found.pod) else None


def _part(value: Json) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
