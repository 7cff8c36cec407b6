"""What a cluster is to be: a value, checked when it is made, with the place of each node worked out from it. Pure.

A shard is a Cassandra ring of its own, of one node or of three. Nodes differ by loopback address and share the port
numbers, as on machines of their own; Redis nodes share an address and differ by port.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

SHARDS_MAX: Final = 8
"""Most shards of one node each: as many JVMs as still fit a large workstation."""

RINGS_MAX: Final = 2
"""Most shards of three nodes each."""

RING_NODES: Final = 3
HEAP_MIB_MIN: Final = 256
PORT_MIN: Final = 1_024
PORT_MAX: Final = 65_535
REDIS_NODES: Final = 6
"""Three masters, the fewest that vote on a failover, and a replica for each."""

REDIS_BUS_OFFSET: Final = 100
"""The cluster bus listens this far above the port. Redis' own 10,000 would leave the range that tests may use."""

JMX_STRIDE: Final = 100
"""JMX listens on 127.0.0.1 whatever the node's address, so the ports differ: 7199, 7299 and so on."""

TOKENS: Final[Mapping[int, tuple[int, ...]]] = {
    1: (0,),
    RING_NODES: (-(2**63), -3_074_457_345_618_258_603, 3_074_457_345_618_258_602),  # 2**64 in three equal parts
}
"""The Murmur3 token of each node of a ring, by the ring's size."""


class SpecError(ValueError):
    """A cluster that cannot be; the text is one line that names the value and what is allowed."""


class CommitLogSync(StrEnum):
    """When Cassandra answers a write: see ``docs/cluster.md``."""

    GROUP = "group"
    """After the disk has it; writes of up to 5 ms share a sync."""
    BATCH = "batch"
    """After the disk has it; each write asks for its sync."""
    PERIODIC = "periodic"
    """At once; what was not synced (up to 10 s) is lost with the power, and the last half second with the process."""


@dataclass(frozen=True, slots=True)
class CassandraPlace:
    """Where one Cassandra node runs and which part of its ring it has."""

    shard: int
    replica: int
    """Position in the ring, from 0; 0 is the first to join it."""
    address: str
    seeds: tuple[str, ...]
    """Every node of the ring: one that is its own seed starts also while it reaches none of the others."""
    token: int
    jmx_port: int | None

    @property
    def name(self) -> str:
        """Name of the node, of its folder too."""
        return f"shard{self.shard}-node{self.replica}"


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A cluster. Raises ``SpecError`` for one that cannot be.

    ``first_address`` is that of the first Cassandra node and of all Redis nodes; node ``n`` has the address ``n``
    further on.
    """

    shards: int = 3
    replicas: int = 1
    """Nodes of each shard: 1 or 3."""
    redis: bool = True
    first_address: str = "127.0.0.1"
    cql_port: int = 9_042
    storage_port: int = 7_000
    jmx_first_port: int | None = 7_199
    """JMX port of the first node, None for no JMX (it is for nodetool and profilers only)."""
    redis_first_port: int = 6_401
    heap_mib: int = 1_024
    """Heap of each JVM."""
    quick_start: bool = False
    """Compile lightly: a JVM then boots on half the CPU time (4.5 s, not 9) and serves slower. For tests of faults."""
    commit_log_sync: CommitLogSync = CommitLogSync.GROUP
    redis_node_timeout_ms: int = 5_000
    """A Redis node that is silent this long is failed over."""
    redis_memory_mib: int = 256
    """What each Redis node keeps before it evicts the least recently used."""

    def __post_init__(self) -> None:
        if self.replicas not in TOKENS:
            raise SpecError(f"replicas {self.replicas}: allowed are 1 and {RING_NODES}")
        most = SHARDS_MAX if self.replicas == 1 else RINGS_MAX
        if not 1 <= self.shards <= most:
            raise SpecError(f"shards {self.shards}: allowed are 1-{most} with replicas {self.replicas}")
        if self.heap_mib < HEAP_MIB_MIN:
            raise SpecError(f"heap {self.heap_mib} MiB: allowed are {HEAP_MIB_MIN} and more")
        if self.redis_node_timeout_ms <= 0 or self.redis_memory_mib <= 0:
            raise SpecError("redis_node_timeout_ms and redis_memory_mib: allowed are 1 and more")
        self._check_addresses()
        self._check_ports()

    def _check_addresses(self) -> None:
        try:
            first = ipaddress.IPv4Address(self.first_address)
            last = first + (self.shards * self.replicas - 1)
        except ValueError as error:
            raise SpecError(f"first address {self.first_address}: {error}") from error
        # No node asks who is calling, so none may be reached from outside.
        if not (first.is_loopback and last.is_loopback):
            raise SpecError(f"first address {self.first_address}: allowed are addresses in 127.0.0.0/8")

    def _check_ports(self) -> None:
        ports = {"cql_port": self.cql_port, "storage_port": self.storage_port}
        if self.jmx_first_port is not None:
            ports["jmx_first_port"] = self.jmx_first_port
            ports["the last JMX port"] = self.jmx_first_port + JMX_STRIDE * (self.shards * self.replicas - 1)
        if self.redis:
            ports["redis_first_port"] = self.redis_first_port
            ports["the last Redis bus port"] = self.redis_first_port + REDIS_NODES - 1 + REDIS_BUS_OFFSET
        for name, port in ports.items():
            if not PORT_MIN <= port <= PORT_MAX:
                raise SpecError(f"{name} {port}: allowed are {PORT_MIN}-{PORT_MAX}")
        # On the first address everything meets (JMX is always on 127.0.0.1, which that may be).
        taken = [self.cql_port, self.storage_port, *(() if self.jmx_first_port is None else (self.jmx_first_port,))]
        if self.redis:
            taken += [port + offset for port in self.redis_ports for offset in (0, REDIS_BUS_OFFSET)]
        if len(set(taken)) < len(taken):
            raise SpecError("the ports of CQL, storage, JMX, Redis and its bus overlap")

    @property
    def cassandra(self) -> tuple[CassandraPlace, ...]:
        """Every Cassandra node, shard by shard."""
        first = ipaddress.IPv4Address(self.first_address)
        ring = range(self.replicas)
        return tuple(
            CassandraPlace(
                shard=index // self.replicas,
                replica=index % self.replicas,
                address=str(first + index),
                seeds=tuple(str(first + index - index % self.replicas + other) for other in ring),
                token=TOKENS[self.replicas][index % self.replicas],
                jmx_port=None if self.jmx_first_port is None else self.jmx_first_port + JMX_STRIDE * index,
            )
            for index in range(self.shards * self.replicas)
        )

    @property
    def redis_ports(self) -> tuple[int, ...]:
        """The ports of the Redis nodes; none without Redis."""
        return tuple(range(self.redis_first_port, self.redis_first_port + REDIS_NODES)) if self.redis else ()

    def contact_points(self, shard: int) -> tuple[str, ...]:
        """The addresses of a shard's nodes."""
        return tuple(place.address for place in self.cassandra if place.shard == shard)

    def changes_from(self, made: ClusterSpec) -> tuple[str, ...]:
        """Names of the fields in which this differs from ``made``."""
        names = (field.name for field in dataclasses.fields(self))
        return tuple(name for name in names if getattr(self, name) != getattr(made, name))

    def keeps_data_of(self, made: ClusterSpec) -> bool:
        """Whether nodes laid out as ``made`` can be started as this: shards may be added, rings not re-cut."""
        fixed = ("replicas", "first_address", "cql_port", "storage_port", "redis_first_port")
        return (
            self.shards >= made.shards
            and (self.redis or not made.redis)
            and all(getattr(self, name) == getattr(made, name) for name in fixed)
        )

    def to_json(self) -> dict[str, str | int | bool | None]:
        """Returns the fields, ready for ``json.dumps``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> Self:
        """Returns the spec of ``to_json``; raises ``SpecError`` for fields that are missing, unknown or wrong."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if set(values) != set(fields):
            odd = ", ".join(sorted(set(values) ^ set(fields)))
            raise SpecError(f"a recorded cluster of another version: fields {odd}")
        for name, value in values.items():
            default = fields[name].default
            wanted = (int, type(None)) if name == "jmx_first_port" else (type(default),)
            if name == "commit_log_sync":
                wanted = (str,)
            if type(value) not in wanted:
                raise SpecError(f"a recorded cluster with {name} {value!r}")
        try:
            sync = CommitLogSync(str(values["commit_log_sync"]))
        except ValueError as error:
            raise SpecError(str(error)) from error
        return cls(**{**values, "commit_log_sync": sync})  # type: ignore[arg-type]  # each value was just checked
