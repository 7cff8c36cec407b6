"""The seam under the Cassandra store: all that it asks of a driver.

Two drivers implement it, ``acsylla`` for the hot path and ``cassandra-driver`` wherever that has no wheel; the same
acceptance suite runs on both. Errors are translated here, at the edge: a session raises ``StoreError`` and nothing
else, by law 4 of ``shards.contract``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

Value: TypeAlias = int | str | bytes | bool | None
"""What is bound and what comes back: int, bigint, text, blob, boolean, null."""

Values: TypeAlias = Sequence[Value]

Prepared: TypeAlias = Any
"""A prepared statement, of the driver's own type."""

Refusal: TypeAlias = Sequence[Mapping[str, Value]]
"""Why a conditional batch did nothing: rows that its conditions name, columns by name."""


class Kind(enum.Enum):
    """How a statement is executed."""

    READ = "read"
    """At quorum. May be sent twice (speculative execution)."""
    SERIAL_READ = "serial read"
    """Linearizable with conditional writes, and finishes those that were left half done."""
    WRITE = "write"
    """Unconditional and idempotent, at quorum."""


class Step(NamedTuple):
    """One statement of a batch, with its values."""

    statement: Prepared
    values: Values


class Node(NamedTuple):
    """One node's answer to a question asked of it alone."""

    address: str
    rows: Sequence[tuple[Value, ...]]
    asked_s: float
    """``time.time`` seconds when it was asked."""
    answered_s: float
    """The same when it had answered."""


class Session(Protocol):
    """A connection to one keyspace of one cluster. For one event loop."""

    async def prepare(self, cql: str) -> Prepared:
        """Prepares a statement; tables are named in full (``keyspace.table``)."""

    async def execute(self, statement: Prepared, values: Values, kind: Kind) -> Sequence[tuple[Value, ...]]:
        """Executes a statement and returns its rows, columns in the order of the select."""

    async def batch(self, steps: Sequence[Step]) -> Refusal | None:
        """Applies conditional statements of one partition, all or none; None: applied, durable on a quorum.

        Never repeated by the driver. All callers' batches of a partition go to its first live replica.
        ``Unavailable`` says that nothing was sent, or that the cluster refused before it began.
        """

    async def write(self, steps: Sequence[Step]) -> None:
        """Applies unconditional, idempotent statements of one partition together; durable on a quorum."""

    async def ask_nodes(self, cql: str) -> Sequence[Node]:
        """Asks every live node by itself, those that do not answer left out. For administration."""

    async def close(self) -> None:
        """Waits for what is under way and disconnects. Idempotent."""
