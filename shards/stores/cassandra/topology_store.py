"""The topology, kept in the control table of a keyspace."""

from __future__ import annotations

from typing import Final

from shards.contract import Corrupt
from shards.stores.cassandra.connection import Connection
from shards.stores.cassandra.control import Control, Fact
from shards.topology import Topology, TopologyDamaged, TopologyStore

_TOPOLOGY: Final = ("topology", "current")


class CassandraTopologyStore(TopologyStore):
    """Keeps the topology in the control table of a keyspace; its revision is the epoch."""

    def __init__(self, connection: Connection) -> None:
        """Takes over a connection, and closes it in the end."""
        self._connection = connection

    def __repr__(self) -> str:
        return f"<CassandraTopologyStore {self._connection!r}>"

    async def load(self) -> Topology | None:
        """See ``TopologyStore.load``."""
        fact = await self._control().read(*_TOPOLOGY)
        return None if fact is None else _topology(fact)

    async def create(self, topology: Topology) -> Topology:
        """See ``TopologyStore.create``."""
        return _topology(await self._control().create(*_TOPOLOGY, _fact(topology)))

    async def compare_and_set(self, epoch: int, topology: Topology) -> bool:
        """See ``TopologyStore.compare_and_set``."""
        if topology.epoch != epoch + 1:
            raise ValueError(f"epoch {topology.epoch} does not follow {epoch}")
        return await self._control().replace(*_TOPOLOGY, epoch, _fact(topology))

    async def close(self) -> None:
        """Disconnects. Idempotent."""
        await self._connection.close()

    def _control(self) -> Control:
        link = self._connection.link()
        return Control(link.session, link.statements)


def _fact(topology: Topology) -> Fact:
    return Fact(topology.epoch, topology.to_bytes())


def _topology(fact: Fact) -> Topology:
    try:
        topology = Topology.from_bytes(fact.value)
    except TopologyDamaged as error:
        raise Corrupt(f"the topology kept in the control table is damaged: {error}") from error
    if topology.epoch != fact.revision:
        raise Corrupt(f"the topology kept under epoch {fact.revision} says that it is of epoch {topology.epoch}")
    return topology
