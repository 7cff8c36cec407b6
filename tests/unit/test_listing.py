"""Pages over a store in memory: how large they are, and how far one page looks."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from server.app import listing
from server.app.clock import SystemClock
from server.app.listing import Page, Query
from server.app.orders import Orders
from server.domain import limits
from server.domain.order import Draft, Line, Order
from server.domain.states import State, Verb
from shards.assembly import StorageSettings, shard_over
from shards.caches.local import LocalCache
from shards.routing import Router
from shards.topology import Topology
from tests.support.memory_store import MemoryStore
from tests.support.observers import Notes
from tests.support.rows import soon

DRAFT = Draft("zoë", "EUR", (Line("tea", 1, 1250),), ())


@pytest.fixture
async def orders() -> Orders:
    """The use cases over one empty shard."""
    notes = Notes()
    cache = LocalCache(rows_max=10, bytes_max=1 << 20, ttl_s=60)
    shard = shard_over(MemoryStore(), 0, cache, StorageSettings(data_dir=Path("none")), notes)
    return Orders(Router.over(Topology.initial(1), {0: shard}, notes, AsyncExitStack()), SystemClock())


async def created(orders: Orders, count: int) -> list[bytes]:
    """Creates so many orders; returns their ids, newest first."""
    ids = [(await orders.create(DRAFT, None, soon())).order.order_id for _ in range(count)]
    return sorted(ids, reverse=True)


async def page_of(orders: Orders, size: int, *, state: State | None = None, token: str = "") -> Page:
    """Reads one page that has room for whatever is there."""

    def fits(_order: Order) -> bool:
        return True

    return await orders.list(Query("zoë", state, size, token), soon(), fits)


async def test_page_sizes_are_the_promised_ones(orders: Orders) -> None:
    """Zero asks for 50, what is above 1,000 for 1,000, and a page that holds all there is has no token."""
    ids = await created(orders, limits.PAGE_SIZE_MAX + 1)
    for size, held in ((0, 50), (1, 1), (50, 50), (1_000, 1_000), (1_001, 1_000), (2**31 - 1, 1_000)):
        page = await page_of(orders, size)
        assert [order.order_id for order in page.orders] == ids[:held]
        assert page.next_page_token
    rest = await page_of(orders, 1_000, token=(await page_of(orders, 1_000)).next_page_token)
    assert [order.order_id for order in rest.orders] == ids[1_000:]
    assert rest.next_page_token == ""


async def test_a_page_looks_so_far_and_no_further(orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of orders in a rare state ends, perhaps empty, when it has looked at so many, and the next goes on."""
    monkeypatch.setattr(listing, "_SCAN_ROWS", 4)
    monkeypatch.setattr(listing, "_SCAN_ROWS_MAX", 10)
    ids = await created(orders, 35)
    rare = [ids[0], ids[12], ids[34]]
    for order_id in rare:
        await orders.transition(order_id, Verb.CANCEL, None, None, "", soon())
    pages = [await page_of(orders, 5, state=State.CANCELLED)]
    while token := pages[-1].next_page_token:
        pages.append(await page_of(orders, 5, state=State.CANCELLED, token=token))
    assert [[order.order_id for order in page.orders] for page in pages] == [[ids[0]], [ids[12]], [], [ids[34]]]
