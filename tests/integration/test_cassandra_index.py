"""Lists of customers on Cassandra: complete and read-your-writes at any moment, whatever the indexer has done."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from shards.contract import BUCKET_S, SEALED, Row, StoreError, Verdict
from shards.keys import mint_uuid7
from shards.settings import CassandraSettings
from shards.stores.cassandra import CassandraStore
from shards.stores.cassandra.control import Control
from shards.stores.cassandra.session import Kind, Node, Prepared, Refusal, Session, Step, Value, Values
from tests.support.cassandra_node import make_empty, node_settings
from tests.support.rows import new_row

HOUR_MS = 3_600_000


class Mortal(Session):
    """A session that dies after so many calls: each later one fails, and nothing of it is done."""

    def __init__(self, session: Session, calls: int) -> None:
        self._session = session
        self._calls = calls

    def _live(self) -> None:
        if self._calls == 0:
            raise StoreError("killed")
        self._calls -= 1

    async def prepare(self, cql: str) -> Prepared:
        """Prepares."""
        return await self._session.prepare(cql)

    async def execute(self, statement: Prepared, values: Values, kind: Kind) -> Sequence[tuple[Value, ...]]:
        """Executes, if it lives."""
        self._live()
        return await self._session.execute(statement, values, kind)

    async def batch(self, steps: Sequence[Step]) -> Refusal | None:
        """Applies, if it lives."""
        self._live()
        return await self._session.batch(steps)

    async def write(self, steps: Sequence[Step]) -> None:
        """Applies, if it lives."""
        self._live()
        await self._session.write(steps)

    async def ask_nodes(self, cql: str) -> Sequence[Node]:
        """Asks."""
        return await self._session.ask_nodes(cql)

    async def close(self) -> None:
        """Closes."""
        await self._session.close()


def kill_after(store: CassandraStore, calls: int) -> None:
    """Lets a store die after so many calls to its cluster."""
    connection = store._connection
    link = connection.link()
    session = Mortal(link.session, calls)
    connection._link = link._replace(session=session, control=Control(session, link.statements))


@pytest_asyncio.fixture(params=[1, 3])
async def settings(request: pytest.FixtureRequest) -> CassandraSettings:
    """An empty keyspace of one lane, and of several."""
    settings = dataclasses.replace(node_settings("acsylla", f"crest_test_{request.param}", request.param))
    await make_empty(settings)
    return settings


@pytest_asyncio.fixture
async def stores(settings: CassandraSettings) -> AsyncIterator["Stores"]:
    """Opens stores at any time of the clock."""
    stores = Stores(settings)
    yield stores
    await asyncio.gather(*(store.close() for store in stores.opened))


class Stores:
    """Stores over one keyspace, each with a clock of its own."""

    def __init__(self, settings: CassandraSettings) -> None:
        self._settings = settings
        self.opened: list[CassandraStore] = []

    async def at(self, ahead_ms: int = 0) -> CassandraStore:
        """Opens a store whose clock is so far ahead of ours."""
        store = await CassandraStore.open(
            self._settings, is_indexing=False, clock_ms=lambda: time.time_ns() // 1_000_000 + ahead_ms
        )
        self.opened.append(store)
        return store


async def listed(store: CassandraStore, row: Row) -> Sequence[Row]:
    """All orders of the customer of a row."""
    return await store.list_customer(row.customer, *row.key[:3], None, 1_000)


async def write(store: CassandraStore, customer: str, ages_ms: Sequence[int]) -> list[Row]:
    """Creates an order of each age; returns them newest first."""
    now_ms = time.time_ns() // 1_000_000
    rows = [new_row(customer, request_id=mint_uuid7(now_ms - age_ms)) for age_ms in ages_ms]
    for row in rows:
        (outcome,) = await store.commit([row])
        assert outcome.verdict is Verdict.APPLIED
    return sorted(rows, key=lambda row: row.key.order_id, reverse=True)


AGES_MS = (0, 1, 600_000, 1_000_000, 2 * HOUR_MS, 400 * 24 * HOUR_MS, -500_000, -30 * HOUR_MS)


async def test_lists_are_complete_before_and_after_indexing(stores: Stores) -> None:
    """Orders of any age are listed before the indexer has run, after, and by who comes later; nothing is twice."""
    store = await stores.at()
    rows = await write(store, "shopper", AGES_MS)
    await write(store, "somebody else", AGES_MS)
    assert await listed(store, rows[0]) == rows
    later = await stores.at(2 * HOUR_MS)
    assert await later.indexer.advance() >= 12
    for face in (store, later, await stores.at(), await stores.at(3 * HOUR_MS)):
        assert await listed(face, rows[0]) == rows
        assert await face.list_customer("shopper", *rows[0].key[:3], rows[2].key.order_id, 2) == rows[3:5]


async def test_new_orders_are_listed_at_once_beside_a_running_indexer(stores: Stores) -> None:
    """While the indexer moves on, each order is in the list that follows its acknowledgement."""
    store, later = await stores.at(), await stores.at(6 * HOUR_MS)
    rows = await write(store, "shopper", [0])
    advancing = asyncio.create_task(later.indexer.advance())
    buckets = 0
    while not advancing.done():
        buckets += 1  # some of these the indexer has sealed already
        row = new_row("shopper", request_id=mint_uuid7(time.time_ns() // 1_000_000 + buckets * BUCKET_S * 1_000))
        (outcome,) = await store.commit([row])
        assert outcome.verdict in {Verdict.APPLIED, Verdict.SEALED}
        rows += [row] * (outcome.verdict is Verdict.APPLIED)
        assert len(await listed(store, row)) == len(rows)
    await advancing
    assert len(await listed(later, new_row("shopper"))) == len(rows)


async def test_indexed_bucket_takes_no_create(stores: Stores) -> None:
    """What the watermark has passed is sealed: nothing can be created behind the index."""
    store = await stores.at()
    later = await stores.at(HOUR_MS)
    await later.indexer.advance()
    row = new_row("shopper")
    assert await store.commit([row]) == [SEALED]
    assert await listed(later, row) == []


@pytest.mark.timeout(600)
async def test_indexer_killed_at_any_step_loses_nothing(stores: Stores, settings: CassandraSettings) -> None:
    """Killed after each number of steps and started again, the indexer never leaves an order out of a list."""
    store = await stores.at()
    rows = await write(store, "shopper", AGES_MS)
    await write(store, "other", AGES_MS)
    finished = False
    for calls in range(0, 200, 3):
        dying = await stores.at(HOUR_MS)
        kill_after(dying, calls)
        try:
            await dying.indexer.advance()
            finished = True
        except StoreError:
            assert not finished
        for face in (store, await stores.at(HOUR_MS)):
            assert await listed(face, rows[0]) == rows
        for used in stores.opened[1:]:
            await used.close()
        del stores.opened[1:]
        if finished:
            return
    raise AssertionError(f"{settings.lanes} lanes are never done")
