"""What is fixed about a shard when it is created, kept in its control table and compared at every connection."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from shards.contract import BUCKET_S, SEAL_AFTER_S, Corrupt, StoreError
from shards.facts import Fact, Facts
from shards.settings import CassandraSettings

_PLACE: Final = ("shard", "facts")


class ShardMismatch(StoreError):
    """The keyspace was created for other settings, or not at all. Nothing was written. One line for the operator."""


class ShardFacts(NamedTuple):
    """The facts. Whatever of them differed between two workers would break a guarantee."""

    lanes: int
    """Decides in which partition an order is."""
    bucket_s: int
    """The same."""
    serial_consistency: str
    """Rounds of different levels do not see each other."""
    first_bucket: int
    """The first bucket that is sealed and indexed in turn; orders of earlier ones are indexed as they are created."""


def first_facts(settings: CassandraSettings, now_ms: int) -> ShardFacts:
    """Returns the facts of a shard created now: no bucket before the first one will see a create that is not sealed."""
    first_bucket = (now_ms - SEAL_AFTER_S * 1_000) // (BUCKET_S * 1_000)
    return ShardFacts(settings.lanes, BUCKET_S, settings.serial_consistency, first_bucket)


async def create(control: Facts, facts: ShardFacts) -> ShardFacts:
    """Stores the facts unless there are some, and returns those that are there then. Raises ``StoreError``."""
    return _decoded(await control.create(*_PLACE, Fact(1, msgspec.json.encode(facts._asdict()))))


async def read(control: Facts) -> ShardFacts | None:
    """Returns the facts; None where the shard was never created. Raises ``StoreError``."""
    fact = await control.read(*_PLACE)
    return None if fact is None else _decoded(fact)


def check(facts: ShardFacts | None, settings: CassandraSettings) -> ShardFacts:
    """Returns the facts if they are those of the settings. Raises ``ShardMismatch``."""
    keyspace = settings.keyspace
    if facts is None:
        raise no_schema(settings)
    if facts.lanes != settings.lanes:
        raise ShardMismatch(
            f"keyspace {keyspace}: created with lanes = {facts.lanes}, the topology file says {settings.lanes}; "
            "the number is fixed when a shard is created"
        )
    if facts.bucket_s != BUCKET_S:
        raise ShardMismatch(f"keyspace {keyspace}: its buckets are {facts.bucket_s} s, this release's {BUCKET_S} s")
    if facts.serial_consistency != settings.serial_consistency:
        raise ShardMismatch(
            f"keyspace {keyspace}: created with serial_consistency = {facts.serial_consistency}, the topology file "
            f"says {settings.serial_consistency}; all writers must use the same"
        )
    return facts


def no_schema(settings: CassandraSettings) -> ShardMismatch:
    """Returns the error that says that the schema was not applied."""
    where = f"keyspace {settings.keyspace} at {', '.join(settings.contact_points)}"
    return ShardMismatch(f"{where}: the schema is not there; run `python -m shards.schema apply`")


def _decoded(fact: Fact) -> ShardFacts:
    try:
        return ShardFacts(**msgspec.json.decode(fact.value, type=dict[str, int | str]))  # type: ignore[arg-type]  # as written by create
    except (msgspec.DecodeError, TypeError) as error:
        raise Corrupt(f"the facts of the shard are not readable: {error}") from error
