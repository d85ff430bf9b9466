"""Secrets of OpenBao's KV v2 engine below one prefix (https://openbao.org/api-docs/secret/kv/kv-v2/)."""

import asyncio

from authority.openbao.client import OpenBaoClient
from authority.openbao.login import Json

_READS_AT_ONCE = 8


class KvSecrets:
    """Creates, reads, lists and deletes secrets; never writes over one. Every method raises OpenBaoError.

    Secrets are named by their path below ``prefix`` in the engine at ``mount``.
    """

    def __init__(self, client: OpenBaoClient, mount: str, prefix: str) -> None:
        self._client = client
        self.data_path = f"{mount}/data/{prefix}"
        """For messages: a secret's path in the API is this, a slash, and its name."""

        self._metadata_path = f"{mount}/metadata/{prefix}"
        self._slots = asyncio.Semaphore(_READS_AT_ONCE)

    async def create(self, name: str, data: Json) -> None:
        """Write a secret where none stands.

        The request is never repeated, so that a conflict is always another's doing.

        Raises:
            CasConflict: a secret of this name stands.
        """
        body = {"options": {"cas": 0}, "data": data}
        await self._client.write(f"{self.data_path}/{name}", body, repeatable=False)

    async def read(self, name: str) -> Json | None:
        """The secret's data; None where there is no secret, or its data was deleted."""
        async with self._slots:
            answer = await self._client.read(f"{self.data_path}/{name}")
        data = (answer or {}).get("data")
        return data if isinstance(data, dict) else None

    async def names(self, folder: str = "") -> list[str]:
        """The names in ``folder`` ("" for the prefix itself, else with a slash at its end); folders end in a slash."""
        listed = await self._client.list(f"{self._metadata_path}/{folder}")
        return [str(name) for name in listed.get("keys", [])]

    async def delete(self, name: str) -> None:
        """Delete all versions of a secret; safe to repeat."""
        await self._client.delete(f"{self._metadata_path}/{name}")
