"""What disks and networks do to copies behind everybody's back."""

from shards.contract import BUCKET_S, Copies, Row
from shards.keys import bucket_of, key_of
from shards.rebalance.fleet import Fleet
from shards.stores.cassandra import CassandraCopies
from shards.stores.cassandra.session import Kind
from shards.stores.embedded import EmbeddedCopies
from tests.support.rebalances import record_of


async def damage_a_copy(fleet: Fleet) -> bool:
    """Turns one bit of one order's copy that the present attempt has made; False where there is none yet."""
    return await damaged_copy(fleet) is not None


async def damaged_copy(fleet: Fleet) -> Row | None:
    """Does so, and returns the copy as it was."""
    record = await record_of(fleet)
    for shard in {move.target for move in record.moves}:
        _, copies = await fleet.part(shard)
        for slot, gen in sorted(await copies.present()):
            if gen != record.attempt:
                continue
            for order_id in await copies.versions(slot, gen):
                (row,) = await copies.rows([key_of(order_id, gen)])
                assert row is not None
                await _write(copies, row, row.body[:-1] + bytes([row.body[-1] ^ 1]))
                return row
    return None


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
