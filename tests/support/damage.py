"""What disks and networks do to copies behind everybody's back."""

from collections.abc import AsyncIterator

from shards.contract import BUCKET_S, Copies, Row
from shards.keys import bucket_of, key_of
from shards.rebalance.fleet import Fleet
from shards.stores.cassandra import CassandraCopies
from shards.stores.cassandra.session import Kind
from shards.stores.embedded import EmbeddedCopies
from tests.support.rebalances import record_of

_TRIES_MAX = 100


async def damage_a_slot(fleet: Fleet) -> bool:
    """Turns a bit in every copy of one slot that the present attempt has made; False where there is none yet.

    In every one: a copy of an order that changes meanwhile is soon replaced, and sound again.
    """
    first: Row | None = None
    async for copies, row in _copies(fleet):
        if first is not None and row.key.slot != first.key.slot:
            break
        first = row
        await _damage(copies, row)
    return first is not None


async def damaged_copy(fleet: Fleet) -> Row | None:
    """Turns one bit of one order's copy, and returns the copy as it was; None where there is none yet."""
    async for copies, row in _copies(fleet):
        await _damage(copies, row)
        return row
    return None


async def _copies(fleet: Fleet) -> AsyncIterator[tuple[Copies, Row]]:
    """Yields the copies that the present attempt has made, slot by slot."""
    record = await record_of(fleet)
    for shard in {move.target for move in record.moves}:
        _, copies = await fleet.part(shard)
        for slot, gen in sorted(await copies.present()):
            if gen != record.attempt:
                continue
            for order_id in (await copies.versions({slot: gen}))[slot]:
                (row,) = await copies.rows([key_of(order_id, gen)])
                assert row is not None
                yield copies, row


async def _damage(copies: Copies, row: Row) -> None:
    bad = flipped_byte(row)
    for _ in range(_TRIES_MAX):
        await _write(copies, row, bad.body)
        # a write that is conditional may bear a later time than one that is not and comes after it
        (found,) = await copies.rows([row.key])
        if found is None or found == bad or found.version != row.version:
            return


def flipped_byte(row: Row) -> Row:
    """Returns a row in whose body one byte is another."""
    return row._replace(body=row.body[:-1] + bytes([row.body[-1] ^ 1]))


async def _write(copies: Copies, row: Row, body: bytes) -> None:
    if isinstance(copies, EmbeddedCopies):
        update = "UPDATE orders SET body = ? WHERE order_id = ? AND gen = ?"
        await copies._write(lambda connection: connection.execute(update, (body, row.key.order_id, row.key.gen)))
        return
    assert isinstance(copies, CassandraCopies)
    session = copies._connection.link().session
    table = f"{copies._settings.keyspace}.orders"
    statement = await session.prepare(
        f"UPDATE {table} SET body = ? "  # noqa: S608  the name of a test's keyspace
        "WHERE lane = ? AND bucket = ? AND slot = ? AND gen = ? AND tag = ? AND order_id = ?"
    )
    lane, bucket = row.key.slot % copies._settings.lanes, bucket_of(row.key.order_id, BUCKET_S)
    await session.execute(statement, (body, lane, bucket, *row.key), Kind.WRITE)
