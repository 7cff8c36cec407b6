"""A development cluster on loopback addresses: Cassandra shards and a Redis Cluster, from Maven Central and Debian.

Tests use ``Cluster(ClusterSpec(...), folder)`` with its ``up`` and ``down``; people ``python -m deploy.cluster``.
Nothing of the service is imported, which may be pointed at any cluster.
"""

from deploy.cluster.cassandra import DATA_CENTRE, CassandraNode
from deploy.cluster.cluster import Cluster
from deploy.cluster.errors import ClusterError, MissingError, NodeError
from deploy.cluster.node import Node
from deploy.cluster.redis import RedisNode
from deploy.cluster.spec import ClusterSpec, CommitLogSync, SpecError

__all__ = [
    "DATA_CENTRE",
    "CassandraNode",
    "Cluster",
    "ClusterError",
    "ClusterSpec",
    "CommitLogSync",
    "MissingError",
    "Node",
    "NodeError",
    "RedisNode",
    "SpecError",
]
