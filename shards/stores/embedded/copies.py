"""A shard's file as movers see it: whole slots, read and placed beside the workers that serve it."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import apsw

from shards.contract import MARK_BYTES, PLACED_MAX, Copies, Invalid, Row, SlotSize
from shards.keys import Key
from shards.stores.embedded import statements
from shards.stores.embedded.errors import FORESEEN, data_dir_error, job_error
from shards.stores.embedded.files import Kind, open_file
from shards.stores.embedded.threads import ConnectionThread, Job
from shards.stores.embedded.turns import Turns

_JOBS_MAX: Final = 256
_TURN_ROWS: Final = 128
"""Rows written in one turn: about what a commit of a worker holds, so that nobody waits longer for a mover."""

_READ_ROWS: Final = 256

_VERSIONS: Final = f"""
    SELECT order_id, length(marks) / {MARK_BYTES} FROM orders INDEXED BY orders_by_customer WHERE slot = ? AND gen = ?
"""  # noqa: S608  what is put in is a number of ours
_PLACE: Final = """
    INSERT INTO orders (order_id, gen, slot, tag, customer, marks, body) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (order_id, gen) DO UPDATE SET marks = excluded.marks, body = excluded.body
    WHERE length(excluded.marks) > length(marks)
"""
_SEALED: Final = "SELECT bucket FROM sealed WHERE bucket >= ?"
_SEAL: Final = "INSERT INTO sealed SELECT value FROM carray(?) WHERE true ON CONFLICT DO NOTHING"
_DROP: Final = f"""
    DELETE FROM orders WHERE (order_id, gen) IN (
        SELECT order_id, gen FROM orders INDEXED BY orders_by_customer WHERE slot = ? AND gen = ? LIMIT {_TURN_ROWS}
    )
"""  # noqa: S608  what is put in is a number of ours
_PRESENT: Final = "SELECT slot, gen FROM orders INDEXED BY orders_by_customer GROUP BY slot, gen"
_SIZES: Final = "SELECT slot, gen, count(*), sum(length(body) + length(marks)) FROM orders GROUP BY slot, gen"

_Question: TypeAlias = Callable[[apsw.Connection], Any]


class EmbeddedCopies(Copies):
    """The slots of one file. Open it with ``open``; it has a connection of its own and takes turns with all writers."""

    def __init__(self, path: Path, connection: apsw.Connection, turns: Turns) -> None:
        """Takes over the connection; ``open`` is the way to get here."""
        self._path: Final = path
        self._connection: Final = connection
        self._turns: Final = turns
        self._thread: Final[ConnectionThread[_Question, Any]] = ConnectionThread(
            f"{path.name} copies", self._work, self._let_go, jobs_max=_JOBS_MAX, taken_max=1
        )

    @classmethod
    async def open(cls, path: Path) -> EmbeddedCopies:
        """Opens a shard's file. Raises ``DataDirError``, a ``StoreError``."""
        return cls(path, *await asyncio.to_thread(_open, path))

    def __repr__(self) -> str:
        return f"<EmbeddedCopies {self._path} jobs={self._thread.jobs_waiting}>"

    async def versions(self, gens: Mapping[int, int]) -> Mapping[int, Mapping[bytes, int]]:
        """See ``Copies.versions``."""
        found: Mapping[int, Mapping[bytes, int]] = await self._thread.ask(
            lambda connection: {item[0]: dict(connection.execute(_VERSIONS, item)) for item in gens.items()}
        )
        return found

    async def rows(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        """See ``Copies.rows``."""
        found: dict[tuple[bytes, int], Row] = {}
        for start in range(0, len(keys), _READ_ROWS):
            order_ids = [key.order_id for key in keys[start : start + _READ_ROWS]]
            found |= await self._thread.ask(partial(statements.read, order_ids=order_ids))
        return [found.get((key.order_id, key.gen)) for key in keys]

    async def place(self, rows: Sequence[Row], known: Mapping[bytes, int]) -> None:  # noqa: ARG002  SQLite looks itself
        """See ``Copies.place``."""
        if len(rows) > PLACED_MAX:
            raise Invalid(f"{len(rows)} rows placed at once; at most {PLACED_MAX}")
        for start in range(0, len(rows), _TURN_ROWS):
            bindings = [
                (order_id, gen, slot, tag, customer, marks, body)
                for (slot, gen, tag, order_id), customer, marks, body in rows[start : start + _TURN_ROWS]
            ]
            await self._write(partial(_place, bindings=bindings))

    def seals_together(self, slot: int) -> Hashable:  # noqa: ARG002  one seal closes a bucket for the whole file
        """See ``Copies.seals_together``: all slots."""
        return None

    async def sealed(self, slot: int, first_bucket: int) -> AbstractSet[int]:  # noqa: ARG002  as above
        """See ``Copies.sealed``."""
        found: AbstractSet[int] = await self._thread.ask(
            lambda connection: {bucket for (bucket,) in connection.execute(_SEALED, (first_bucket,))}
        )
        return found

    async def seal(self, slot: int, buckets: AbstractSet[int]) -> None:  # noqa: ARG002  as above
        """See ``Copies.seal``."""
        if buckets:
            numbers = array("q", sorted(buckets))
            await self._write(lambda connection: connection.execute(_SEAL, (apsw.carray(numbers),)))

    async def drop(self, slot: int, gen: int) -> None:
        """See ``Copies.drop``. Turn by turn, each a commit."""
        dropped = _TURN_ROWS
        while dropped:

            def drop(connection: apsw.Connection) -> int:
                connection.execute(_DROP, (slot, gen))
                return int(connection.changes())

            dropped = await self._write(drop)

    async def present(self) -> AbstractSet[tuple[int, int]]:
        """See ``Copies.present``."""
        found: AbstractSet[tuple[int, int]] = await self._thread.ask(
            lambda connection: {(slot, gen) for slot, gen in connection.execute(_PRESENT)}
        )
        return found

    async def sizes(self, gens: Mapping[int, int]) -> Mapping[int, SlotSize]:
        """See ``Copies.sizes``."""
        found: Sequence[tuple[int, int, int, int]] = await self._thread.ask(
            lambda connection: list(connection.execute(_SIZES))
        )
        counted = {(slot, gen): SlotSize(rows, size) for slot, gen, rows, size in found}
        return {slot: counted.get((slot, gen), SlotSize(0, 0)) for slot, gen in gens.items()}

    async def close(self) -> None:
        """See ``Copies.close``."""
        await self._thread.close()

    async def _write(self, change: _Question) -> Any:  # noqa: ANN401  whatever the change tells
        def write(connection: apsw.Connection) -> Any:  # noqa: ANN401  as above
            with self._turns:
                connection.execute(statements.BEGIN)
                try:
                    told = change(connection)
                    connection.execute(statements.COMMIT)
                except BaseException:
                    if connection.in_transaction:  # some errors roll back by themselves
                        connection.execute(statements.ROLLBACK)
                    raise
                return told

        return await self._thread.ask(write)

    def _work(self, jobs: Sequence[Job[_Question, Any]]) -> None:
        for job in jobs:
            try:
                job.answer = job.question(self._connection)
            except FORESEEN as error:
                job.error = job_error(error, self._path)

    def _let_go(self) -> None:
        self._connection.close()
        self._turns.close()


def _place(connection: apsw.Connection, bindings: Sequence[tuple[Any, ...]]) -> None:
    connection.executemany(_PLACE, bindings)


def _open(path: Path) -> tuple[apsw.Connection, Turns]:
    connection = open_file(path, Kind.SHARD)
    try:
        turns = Turns(path)
    except OSError as error:
        connection.close()
        raise data_dir_error(error, path) from error
    connection.set_busy_handler(turns.poll)
    return connection, turns
