"""Reads by key: one statement for the rows of each partition."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, TypeAlias

from shards.contract import Row
from shards.keys import Key
from shards.stores.cassandra.session import Kind, Session, Value
from shards.stores.cassandra.statements import READ_SIZES, Statements

STATEMENTS_AT_ONCE_MAX: Final = 64
"""Statements that one call has under way at once."""

Place: TypeAlias = tuple[int, int]
"""A partition of orders: its lane's number and its bucket."""


def row_of(columns: tuple[Value, ...]) -> Row:
    """Returns the row of the columns that every select of rows names."""
    return Row(Key(*columns[:4]), *columns[4:])  # type: ignore[arg-type]  # in the order and of the types of the select


async def read_many(
    session: Session, statements: Statements, places: Sequence[Place], keys: Sequence[Key], kind: Kind
) -> list[Row | None]:
    """Returns the row of each key, in order; ``places`` are the keys' partitions. Raises ``StoreError``."""
    wanted: dict[Place, list[Key]] = {}
    for place, key in zip(places, keys, strict=True):
        wanted.setdefault(place, []).append(key)
    largest = READ_SIZES[-1]
    parts = [
        (place, group[start : start + largest])
        for place, group in wanted.items()
        for start in range(0, len(group), largest)
    ]
    found: dict[Key, Row] = {}
    for start in range(0, len(parts), STATEMENTS_AT_ONCE_MAX):
        answers = await asyncio.gather(
            *(
                _read_part(session, statements, place, part, kind)
                for place, part in parts[start : start + STATEMENTS_AT_ONCE_MAX]
            )
        )
        for rows in answers:
            for columns in rows:
                row = row_of(columns)
                found[row.key] = row
    return [found.get(key) for key in keys]


async def _read_part(
    session: Session, statements: Statements, place: Place, part: Sequence[Key], kind: Kind
) -> Sequence[tuple[Value, ...]]:
    at = bisect_left(READ_SIZES, len(part))
    values: list[Value] = [*place]
    for key in part:
        values += key
    for _ in range(READ_SIZES[at] - len(part)):
        values += part[-1]
    return await session.execute(statements.read[at], values, kind)
