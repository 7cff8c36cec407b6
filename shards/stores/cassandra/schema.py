"""The schema of a keyspace: what is there, what is to be done, and doing it.

Steps are the files ``cql/<version>_<name>.cql``, applied in order, each once; ``schema_versions`` in the keyspace keeps
which, and the checksum each had. A released file is never edited: the next one follows it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Final, NamedTuple, cast

from shards.contract import Invalid, Unavailable
from shards.keys import wall_clock_ms
from shards.settings import CassandraSettings
from shards.stores.cassandra import facts
from shards.stores.cassandra.control import Control
from shards.stores.cassandra.driver_session import DriverSession
from shards.stores.cassandra.facts import ShardFacts, ShardMismatch
from shards.stores.cassandra.statements import prepare

_FILE: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.cql")
_VERSIONS: Final = "schema_versions"
_TABLE: Final = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+)")


class Migration(NamedTuple):
    """One file of the schema."""

    version: int
    name: str
    statements: tuple[str, ...]
    checksum: str

    @property
    def tables(self) -> frozenset[str]:
        """The tables it makes."""
        return frozenset(found[1] for text in self.statements if (found := _TABLE.search(text)))


class State(NamedTuple):
    """What a keyspace holds."""

    replication: Mapping[str, str] | None
    """None: there is no such keyspace."""
    applied: Mapping[int, str]
    """Checksums of the versions applied, by version."""
    tables: frozenset[str]
    facts: ShardFacts | None


class Plan(NamedTuple):
    """What is to be done to a keyspace; nothing when all are false or empty."""

    creates_keyspace: bool
    migrations: tuple[Migration, ...]
    writes_facts: bool

    def lines(self, settings: CassandraSettings) -> list[str]:
        """Returns what will be done, one line each."""
        lines = []
        if self.creates_keyspace:
            copies = ", ".join(f"{name}: {n}" for name, n in settings.replication.items())
            lines.append(f"create keyspace {settings.keyspace} ({copies})")
        lines += [f"apply version {step.version} ({step.name})" for step in self.migrations]
        if self.writes_facts:
            lines.append(f"fix lanes = {settings.lanes}, serial_consistency = {settings.serial_consistency}")
        return lines


class SchemaRefused(Exception):
    """The keyspace is not what this release knows, so it is left alone. One line for the operator."""


def migrations() -> tuple[Migration, ...]:
    """Returns the files of this release, by version."""
    found = []
    for file in resources.files("shards.stores.cassandra").joinpath("cql").iterdir():
        match = _FILE.fullmatch(file.name)
        if match is None:
            continue
        text = file.read_text(encoding="utf-8")
        body = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
        statements = tuple(part.strip() for part in body.split(";\n") if part.strip())
        checksum = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        found.append(Migration(int(match[1]), match[2], tuple(s.removesuffix(";") for s in statements), checksum))
    found.sort()
    assert [step.version for step in found] == list(range(1, len(found) + 1)), "versions follow each other"
    return tuple(found)


def plan(state: State, settings: CassandraSettings, known: Sequence[Migration]) -> Plan:
    """Returns what is to be done. Pure. Raises ``SchemaRefused`` where something unknown is there."""
    where = f"keyspace {settings.keyspace}"
    by_version = {step.version: step for step in known}
    for version, checksum in sorted(state.applied.items()):
        if version not in by_version:
            raise SchemaRefused(
                f"{where}: has version {version}, this release knows up to {len(known)}; use a newer one"
            )
        if by_version[version].checksum != checksum:
            raise SchemaRefused(f"{where}: version {version} was applied with another content than this release's")
    if sorted(state.applied) != list(range(1, len(state.applied) + 1)):
        raise SchemaRefused(f"{where}: versions {sorted(state.applied)} are applied, with a gap")
    ours = {_VERSIONS}.union(*(step.tables for step in known))
    if unknown := sorted(state.tables - ours):
        raise SchemaRefused(f"{where}: holds tables that are not ours ({', '.join(unknown)}); take an empty keyspace")
    applied = [by_version[version] for version in state.applied]
    if missing := sorted(frozenset().union(*(step.tables for step in applied)) - state.tables):
        raise SchemaRefused(f"{where}: tables are missing ({', '.join(missing)}); restore them from a snapshot")
    if state.replication is not None and not _is_replication(state.replication, settings):
        raise SchemaRefused(
            f"{where}: is replicated as {dict(state.replication)}, the file says {dict(settings.replication)}; "
            "correct the file, or change the keyspace by hand and repair it"
        )
    if state.facts is not None:
        try:
            facts.check(state.facts, settings)
        except ShardMismatch as error:
            raise SchemaRefused(str(error)) from error
    todo = tuple(step for step in known if step.version not in state.applied)
    return Plan(state.replication is None, todo, state.facts is None)


async def look(session: DriverSession, settings: CassandraSettings, known: Sequence[Migration]) -> State:
    """Returns what the keyspace holds. Raises ``StoreError``."""
    name = settings.keyspace  # checked by the settings: letters, digits and underscores only
    found = await session.run("SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s", (name,))
    if not found:
        return State(None, {}, frozenset(), None)
    replication = dict(cast("Mapping[str, str]", found[0][0]))
    listed = await session.run("SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s", (name,))
    tables = frozenset(str(table) for (table,) in listed)
    applied: dict[int, str] = {}
    if _VERSIONS in tables:
        rows = await session.run(f"SELECT version, checksum FROM {name}.{_VERSIONS} WHERE part = 0")  # noqa: S608  the name was checked to be one
        applied = {cast("int", version): str(checksum) for version, checksum in rows}
    is_complete = len(applied) >= len(known) and frozenset().union(*(step.tables for step in known)) <= tables
    return State(replication, applied, tables, await facts.read(await _control(session, name)) if is_complete else None)


async def apply(session: DriverSession, settings: CassandraSettings, todo: Plan) -> None:
    """Does what a plan says. Each step may be run again, so a broken off run is repeated. Raises ``StoreError``.

    Not to be run twice at once: schema changes of Cassandra that meet may leave nodes that disagree.
    """
    name = settings.keyspace
    if todo.creates_keyspace:
        copies = ", ".join(f"'{data_center}': {n}" for data_center, n in settings.replication.items())
        await session.run(
            f"CREATE KEYSPACE IF NOT EXISTS {name} WITH replication = "
            f"{{'class': 'NetworkTopologyStrategy', {copies}}} AND durable_writes = true"
        )
    await session.run(
        f"CREATE TABLE IF NOT EXISTS {name}.{_VERSIONS} "
        "(part int, version int, name text, checksum text, applied_at_ms bigint, PRIMARY KEY (part, version))"
    )
    for step in todo.migrations:
        for statement in step.statements:
            await session.run(_TABLE.sub(rf"CREATE TABLE IF NOT EXISTS {name}.\1", statement))
        await session.run(
            f"INSERT INTO {name}.{_VERSIONS} (part, version, name, checksum, applied_at_ms) "  # noqa: S608  the name was checked to be one
            "VALUES (0, %s, %s, %s, %s)",
            (step.version, step.name, step.checksum, wall_clock_ms()),
        )
    if todo.writes_facts:
        wanted = facts.first_facts(settings, wall_clock_ms())
        facts.check(await facts.create(await _control(session, name), wanted), settings)


async def _control(session: DriverSession, keyspace: str) -> Control:
    try:
        return Control(session, await prepare(session, keyspace))
    except Invalid as error:
        raise Unavailable(f"keyspace {keyspace}: the nodes do not agree on its schema yet: {error}") from error


def _is_replication(found: Mapping[str, str], settings: CassandraSettings) -> bool:
    options = {name: value for name, value in found.items() if name != "class"}
    return options == {name: str(n) for name, n in settings.replication.items()}
