"""Where the peers keep orders: the same shards as ours, by the same slots, in keyspaces of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec
from cassandra import ConsistencyLevel
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, Session
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.query import tuple_factory

from shards.keys import slot_and_tag

_TIMEOUT_S: Final = 20.0
_PROTOCOL: Final = 5
"""The newest that Cassandra 5.0 speaks; the driver would begin above it and be refused twice."""

TABLE: Final = """
    CREATE TABLE IF NOT EXISTS {keyspace}.orders (
        order_id blob PRIMARY KEY, customer text, version int, marks blob, body blob)"""
"""What a service keeps that does not batch: an order a partition, the same columns of content as ours."""


class Shard(msgspec.Struct, frozen=True):
    """One shard's nodes."""

    id: int
    hosts: list[str]
    port: int


class Placement(msgspec.Struct, frozen=True):
    """What the benchmark tells a peer: the shards, and which holds each of the 4,096 slots."""

    keyspace: str
    data_center: str
    replication: int
    shards: list[Shard]
    slot_shards: list[int]

    def shard_of(self, customer: str) -> int:
        """Returns the id of the shard that holds this customer's orders."""
        return self.slot_shards[slot_and_tag(customer)[0]]


def read(path: Path) -> Placement:
    """Reads what ``Bed.write_placement`` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Placement)


def connect(placement: Placement, shard: Shard) -> tuple[Cluster, Session]:
    """Returns the driver's cluster and session of one shard, at LOCAL_QUORUM."""
    policy = TokenAwarePolicy(DCAwareRoundRobinPolicy(placement.data_center))
    profile = ExecutionProfile(
        load_balancing_policy=policy,
        request_timeout=_TIMEOUT_S,
        row_factory=tuple_factory,
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
    )
    profiles = {EXEC_PROFILE_DEFAULT: profile}
    cluster = Cluster(shard.hosts, port=shard.port, execution_profiles=profiles, protocol_version=_PROTOCOL)
    return cluster, cluster.connect()


def make_keyspaces(placement: Placement, keyspaces: Iterable[str]) -> None:
    """Makes empty keyspaces with the table of an order a partition, on every shard. Idempotent."""
    for shard in placement.shards:
        cluster, session = connect(placement, shard)
        try:
            for keyspace in keyspaces:
                copies = _replication(placement.data_center, placement.replication)
                session.execute(f"CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {copies}")
                session.execute(TABLE.format(keyspace=keyspace))
        finally:
            cluster.shutdown()


def _replication(data_center: str, copies: int) -> Mapping[str, object]:
    return {"class": "NetworkTopologyStrategy", data_center: copies}
