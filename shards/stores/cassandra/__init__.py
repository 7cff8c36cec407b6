"""The Cassandra store: one keyspace a shard, in one cluster or in several.

``shards.schema`` makes the keyspaces; then each worker opens a ``CassandraStore`` a shard, and the
``CassandraTopologyStore`` that ``open_topology_store`` returns.
"""

from __future__ import annotations

from shards.settings import CassandraSettings
from shards.stores.cassandra.connection import Connection
from shards.stores.cassandra.copies import CassandraCopies
from shards.stores.cassandra.facts import ShardMismatch
from shards.stores.cassandra.store import CassandraStore
from shards.stores.cassandra.topology_store import CassandraTopologyStore

__all__ = ["CassandraCopies", "CassandraStore", "CassandraTopologyStore", "ShardMismatch", "open_topology_store"]


async def open_topology_store(settings: CassandraSettings, *, wait_s: float = 5.0) -> CassandraTopologyStore:
    """Connects to where the topology is kept. Raises ``ShardMismatch``; later calls may raise ``Unavailable``."""
    connection = Connection(settings, "topology")
    try:
        await connection.open(wait_s)
    except BaseException:
        await connection.close()
        raise
    return CassandraTopologyStore(connection)
