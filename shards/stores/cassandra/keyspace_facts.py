"""Facts of a keyspace, over a connection that comes about when the cluster does."""

from __future__ import annotations

from collections.abc import Mapping

from shards.facts import Fact, Facts, Guard
from shards.settings import CassandraSettings
from shards.stores.cassandra.connection import Connection


class CassandraFacts(Facts):
    """The facts in the control table of a keyspace; ``Unavailable`` while it is not connected."""

    tells_for_good = True

    def __init__(self, connection: Connection) -> None:
        """``close`` closes the connection; ``open`` makes one."""
        self._connection = connection

    @classmethod
    async def open(
        cls, settings: CassandraSettings, name: str, *, wait_s: float = 5.0, warns: bool = True
    ) -> CassandraFacts:
        """Connects, for at most ``wait_s`` seconds; after that goes on in the background, and calls fail meanwhile.

        ``name`` is how the log calls it; ``warns``: the log is told what is amiss with the nodes. Raises
        ``ShardMismatch`` when the cluster is not as the settings say.
        """
        connection = await Connection.opened(settings, name, wait_s, warns=warns)
        return cls(connection)

    def __repr__(self) -> str:
        return f"<CassandraFacts {self._connection!r}>"

    async def read(self, scope: str, name: str) -> Fact | None:
        """See ``Facts.read``."""
        return await self._connection.link().control.read(scope, name)

    async def glance(self, scope: str, name: str) -> Fact | None:
        """See ``Facts.glance``."""
        return await self._connection.link().control.glance(scope, name)

    async def revision(self, scope: str, name: str) -> int:
        """See ``Facts.revision``."""
        return await self._connection.link().control.revision(scope, name)

    async def list(self, scope: str) -> Mapping[str, Fact]:
        """See ``Facts.list``."""
        return await self._connection.link().control.list(scope)

    async def create(self, scope: str, name: str, fact: Fact) -> Fact:
        """See ``Facts.create``."""
        return await self._connection.link().control.create(scope, name, fact)

    async def replace(self, scope: str, name: str, revision: int, fact: Fact) -> bool:
        """See ``Facts.replace``."""
        return await self._connection.link().control.replace(scope, name, revision, fact)

    async def delete(self, scope: str, name: str, revision: int) -> bool:
        """See ``Facts.delete``."""
        return await self._connection.link().control.delete(scope, name, revision)

    async def grant(self, scope: str, name: str, fact: Fact, guard: Guard) -> bool:
        """See ``Facts.grant``."""
        return await self._connection.link().control.grant(scope, name, fact, guard)

    async def renew(self, scope: str, name: str, fact: Fact, guard: Guard) -> bool:
        """See ``Facts.renew``."""
        return await self._connection.link().control.renew(scope, name, fact, guard)

    async def tell(self, scope: str, name: str, fact: Fact) -> None:
        """See ``Facts.tell``."""
        await self._connection.link().control.tell(scope, name, fact)

    async def close(self) -> None:
        """Disconnects, the store of the same connection too. Idempotent."""
        await self._connection.close()
