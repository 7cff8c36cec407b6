"""The Cassandra store: one keyspace a shard, in one cluster or in several.

``shards.schema`` makes the keyspaces; then each worker opens a ``CassandraStore`` a shard, whose ``facts`` lie
beside the orders, and ``CassandraFacts`` where the topology is kept.
"""

from __future__ import annotations

from shards.stores.cassandra.copies import CassandraCopies
from shards.stores.cassandra.facts import ShardMismatch
from shards.stores.cassandra.keyspace_facts import CassandraFacts
from shards.stores.cassandra.store import CassandraStore

__all__ = ["CassandraCopies", "CassandraFacts", "CassandraStore", "ShardMismatch"]
