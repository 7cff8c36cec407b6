"""One order whose stored form cannot be read, beside one that is sound: who is told, and who is left alone."""

from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Final

import pytest

from server.app import watching
from server.app.clock import SystemClock
from server.app.listing import Query
from server.app.orders import Orders
from server.domain.errors import OrderError, Reason
from server.domain.order import Draft, Line
from server.domain.states import Verb
from shards.assembly import StorageSettings, shard_over
from shards.caches.local import LocalCache
from shards.contract import Consistency
from shards.keys import format_uuid
from shards.routing import Router
from shards.topology import Topology
from tests.support.memory_store import MemoryStore
from tests.support.observers import Notes
from tests.support.rows import soon

DRAFT: Final = Draft("zoë", "EUR", (Line("tea", 2, 1250),), ())

Damage = Callable[[bytes], bytes]

DAMAGES: Final[dict[str, Damage]] = {
    "later format": lambda body: b"\x7f" + body[1:],
    "cut off": lambda body: body[:-1],
    "nothing": lambda _: b"",
    "no text": lambda body: body.replace(b"tea", b"\xff\xfe\xfd"),
    "no state": lambda body: body.replace(b"\x93\x01\xcf", b"\x93\x7f\xcf"),
}


@pytest.fixture(params=DAMAGES)
def damage(request: pytest.FixtureRequest) -> Damage:
    """What becomes of a body, each in turn."""
    return DAMAGES[str(request.param)]


@pytest.fixture
def store() -> MemoryStore:
    """An empty store."""
    return MemoryStore()


def orders_over(store: MemoryStore) -> Orders:
    """The use cases of a worker of its own."""
    notes = Notes()
    cache = LocalCache(rows_max=10, bytes_max=1 << 20, ttl_s=60)
    shard = shard_over(store, 0, cache, StorageSettings(data_dir=Path("none")), notes)
    return Orders(Router.over(Topology.initial(1), {0: shard}, notes, AsyncExitStack()), SystemClock())


def damaged(store: MemoryStore, order_id: bytes, damage: Damage) -> None:
    """Damages one order where it is stored."""
    (key,) = [key for key in store.rows if key.order_id == order_id]
    row = store.rows[key]
    assert damage(row.body) != row.body
    store.rows[key] = row._replace(body=damage(row.body))


def tells(error: OrderError, order_id: bytes) -> bool:
    """Whether an error says that this order cannot be read."""
    return (error.reason, error.metadata) == (Reason.STORE_CORRUPT, {"order_id": format_uuid(order_id)})


async def two_orders(store: MemoryStore) -> tuple[bytes, bytes]:
    """Creates two orders of one customer through another worker; returns their ids."""
    first, second = [(await orders_over(store).create(DRAFT, None, soon())).order.order_id for _ in range(2)]
    return first, second


async def test_a_damaged_order_alone_is_told_so(store: MemoryStore, damage: Damage) -> None:
    """Who reads or moves an order that cannot be read is told STORE_CORRUPT and which; another one is read as ever."""
    bad, good = await two_orders(store)
    damaged(store, bad, damage)
    orders = orders_over(store)
    with pytest.raises(OrderError) as read:
        await orders.get(bad, 0, Consistency.CACHED, soon())
    with pytest.raises(OrderError) as moved:
        await orders.transition(bad, Verb.CONFIRM_PAYMENT, None, None, "", soon())
    assert tells(read.value, bad)
    assert tells(moved.value, bad)
    assert (await orders.get(good, 0, Consistency.CACHED, soon())).order_id == good


async def test_a_damaged_order_fails_no_other_of_a_batch(store: MemoryStore, damage: Damage) -> None:
    """A batch of reads answers the sound orders, and why the damaged one is not known."""
    bad, good = await two_orders(store)
    damaged(store, bad, damage)
    found = await orders_over(store).get_many([bad, good], Consistency.STRONG, soon())
    failed, order = found[bad], found[good]
    assert isinstance(failed, OrderError)
    assert tells(failed, bad)
    assert not isinstance(order, OrderError)
    assert order is not None
    assert order.order_id == good


async def test_a_damaged_order_ends_no_other_watch(
    store: MemoryStore, damage: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch of an order that is damaged meanwhile ends and says so; that of another goes on to its next state."""
    monkeypatch.setattr(watching, "_POLL_INTERVAL_S", 0.01)
    bad, good = await two_orders(store)
    orders = orders_over(store)
    async with aclosing(orders.watch(bad, soon())) as of_bad, aclosing(orders.watch(good, soon())) as of_good:
        assert [(await anext(of)).version for of in (of_bad, of_good)] == [1, 1]
        damaged(store, bad, damage)
        with pytest.raises(OrderError) as ended:
            await anext(of_bad)
        assert tells(ended.value, bad)
        await orders_over(store).transition(good, Verb.CONFIRM_PAYMENT, None, None, "", soon())
        assert (await anext(of_good)).version == 2
    await orders.close()


async def test_a_page_with_a_damaged_order_names_it(store: MemoryStore, damage: Damage) -> None:
    """A page that would leave out an order of its customer fails, and names the order."""
    bad, _ = await two_orders(store)
    damaged(store, bad, damage)
    with pytest.raises(OrderError) as page:
        await orders_over(store).list(Query("zoë", None, 10, ""), soon(), lambda _: True)
    assert tells(page.value, bad)
