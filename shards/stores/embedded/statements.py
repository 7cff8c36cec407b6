"""The SQL of a shard's file: one statement for a whole commit, one for a gathered read, one for a page.

A call into SQLite lets go of the interpreter lock and has to win it back from a busy event loop, which costs up to one
switch interval each time. So a commit is one statement, and it commits itself.

That statement is all or nothing: whatever refuses a row (a row of that id, another version, none, a sealed bucket)
makes a NULL where the schema forbids one, and SQLite undoes the statement. Then, and only then, the commit is made
again row by row in ``writer``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Final

import apsw

from shards.contract import BUCKET_S, MARK_BYTES, Row
from shards.keys import Key, bucket_of
from shards.stores.embedded.errors import extended_result

ROWS_MAX: Final = 256
"""Rows of one commit; a larger one gains nothing more by sharing an fsync and keeps other writers waiting."""

_COLUMNS: Final = 8
_NO_ROW: Final[tuple[None, ...]] = (None,) * _COLUMNS
_ABOVE_ALL_IDS: Final = b"\xff" * 17

BEGIN: Final = "BEGIN IMMEDIATE"
COMMIT: Final = "COMMIT"
ROLLBACK: Final = "ROLLBACK"
SETTLE: Final = "INSERT OR REPLACE INTO about VALUES ('settled', hex(randomblob(8)))"
SEAL: Final = "INSERT INTO sealed VALUES (?) ON CONFLICT DO NOTHING"
SEALED_AMONG: Final = "SELECT bucket FROM sealed WHERE bucket IN carray(?)"
COUNT: Final = "SELECT count(*) FROM orders"
READ: Final = "SELECT order_id, gen, slot, tag, customer, marks, body FROM orders WHERE order_id IN carray(?)"
ROWS_AFTER: Final = """
    SELECT order_id, gen, slot, tag, customer, marks, body FROM orders
    WHERE (order_id, gen) > (?, ?) ORDER BY order_id, gen LIMIT ?
"""
LIST: Final = """
    SELECT order_id, marks, body FROM orders INDEXED BY orders_by_customer
    WHERE slot = ? AND gen = ? AND tag = ? AND order_id < ? AND customer = ? ORDER BY order_id DESC LIMIT ?
"""

_WRITE: Final = f"""
    INSERT INTO orders (order_id, gen, slot, tag, customer, marks, body)
    SELECT
        CASE WHEN length(column6) > {MARK_BYTES}
            THEN CASE WHEN EXISTS (SELECT 1 FROM orders WHERE order_id = column1 AND gen = column2) THEN column1 END
            ELSE CASE WHEN NOT EXISTS (SELECT 1 FROM sealed WHERE bucket = column8) THEN column1 END
        END,
        column2, column3, column4, column5, column6, column7
    FROM (VALUES %s) WHERE column1 IS NOT NULL
    ON CONFLICT (order_id, gen) DO UPDATE SET
        marks = CASE WHEN length(excluded.marks) = length(marks) + {MARK_BYTES} THEN excluded.marks END,
        body = excluded.body
"""  # noqa: S608  # what is put in is a number of ours, never a value


def _write_statements() -> dict[int, str]:
    # Sizes are powers of two, filled up with rows of NULL, so that a handful of prepared statements serves all commits.
    place = f"({','.join('?' * _COLUMNS)})"
    sizes = (1 << n for n in range(ROWS_MAX.bit_length()))
    return {size: _WRITE % ",".join([place] * size) for size in sizes}


_WRITES: Final = _write_statements()


def write(connection: apsw.Connection, rows: Sequence[Row]) -> bool:
    """Stores all rows (1 to ``ROWS_MAX``, no two of one key), or none of them and returns False.

    Outside a transaction it is durable when it returns True.
    """
    bindings: list[object] = []
    for (slot, gen, tag, order_id), customer, marks, body in rows:
        bindings += (order_id, gen, slot, tag, customer, marks, body, bucket_of(order_id, BUCKET_S))
    size = 1 << (len(rows) - 1).bit_length()
    bindings += _NO_ROW * (size - len(rows))
    try:
        connection.execute(_WRITES[size], bindings)
    except apsw.ConstraintError as error:
        if extended_result(error) != apsw.SQLITE_CONSTRAINT_NOTNULL:
            raise
        return False
    return True


def read(connection: apsw.Connection, order_ids: Iterable[bytes]) -> dict[tuple[bytes, int], Row]:
    """Returns every row of these ids (at least one), of whatever gen, by (order id, gen): one consistent snapshot."""
    found: dict[tuple[bytes, int], Row] = {}
    for order_id, gen, slot, tag, customer, marks, body in connection.execute(READ, (apsw.carray(tuple(order_ids)),)):
        found[order_id, gen] = Row(Key(slot, gen, tag, order_id), customer, marks, body)
    return found


def rows_after(connection: apsw.Connection, order_id: bytes, gen: int, rows_max: int) -> list[Row]:
    """Returns the rows that follow (order id, gen), ascending, at most ``rows_max``; an empty id begins."""
    return [
        Row(Key(slot, found_gen, tag, found_id), customer, marks, body)
        for found_id, found_gen, slot, tag, customer, marks, body in connection.execute(
            ROWS_AFTER, (order_id, gen, rows_max)
        )
    ]


def count(connection: apsw.Connection) -> int:
    """Returns the number of rows of all gens, by a walk over one index."""
    return int(connection.execute(COUNT).get)


def list_customer(
    connection: apsw.Connection, customer: str, slot: int, gen: int, tag: int, before: bytes | None, rows_max: int
) -> list[Row]:
    """Returns rows of the customer by descending id, those below ``before``, at most ``rows_max``."""
    top = _ABOVE_ALL_IDS if before is None else before
    return [
        Row(Key(slot, gen, tag, order_id), customer, marks, body)
        for order_id, marks, body in connection.execute(LIST, (slot, gen, tag, top, customer, rows_max))
    ]


def sealed_among(connection: apsw.Connection, buckets: Iterable[int]) -> set[int]:
    """Returns those of the buckets (at least one) that are sealed."""
    numbers = array("q", buckets)
    return {bucket for (bucket,) in connection.execute(SEALED_AMONG, (apsw.carray(numbers),))}
