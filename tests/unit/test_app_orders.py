"""Use cases over a store in memory and a clock that stands: what their edges are, and how races end."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from server.app.orders import Orders
from server.domain.errors import OrderError, Reason
from server.domain.order import Draft, Line
from server.domain.states import State, Verb
from shards.assembly import StorageSettings, shard_over
from shards.caches.local import LocalCache
from shards.contract import Consistency, Outcome
from shards.keys import mint_uuid7
from shards.routing import Router
from shards.topology import Topology
from tests.support.memory_store import MemoryStore
from tests.support.observers import Notes
from tests.support.rows import soon

NOW_MS: Final = 1_800_000_000_000
MINUTE_MS: Final = 60_000
DRAFT: Final = Draft("zoë", "EUR", (Line("tea", 2, 1250),), ())


def a_router() -> Router:
    """A router over one empty shard."""
    notes = Notes()
    cache = LocalCache(rows_max=100, bytes_max=1 << 20, ttl_s=60)
    shard = shard_over(MemoryStore(), 0, cache, StorageSettings(data_dir=Path("none")), notes)
    return Router.over(Topology.initial(1), {0: shard}, notes, AsyncExitStack())


class StandingClock:
    """A clock that stands, a little past a millisecond."""

    def now_us(self) -> int:
        """Returns Unix microseconds."""
        return NOW_MS * 1_000 + 7


class Overtaken:
    """A router that lets somebody else act just before its next write."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.rival: Callable[[], Awaitable[Any]] | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the router has
        return getattr(self._router, name)

    async def write(self, *arguments: Any) -> Outcome:  # noqa: ANN401  # as the router
        """Lets the rival act, then writes."""
        rival, self.rival = self.rival, None
        if rival is not None:
            await rival()
        return await self._router.write(*arguments)


@pytest.mark.parametrize(("ahead_ms", "taken"), [(MINUTE_MS, True), (MINUTE_MS + 1, False)])
async def test_ids_are_taken_up_to_a_minute_ahead(ahead_ms: int, taken: bool) -> None:
    """A request id may be a minute ahead of the server; one that is more is refused, and told the server's time."""
    orders = Orders(a_router(), StandingClock())
    request_id = mint_uuid7(NOW_MS + ahead_ms)
    if taken:
        assert not (await orders.create(DRAFT, request_id, soon())).replayed
        return
    with pytest.raises(OrderError) as refused:
        await orders.create(DRAFT, request_id, soon())
    assert refused.value.reason is Reason.REQUEST_ID_AHEAD
    assert refused.value.metadata == {"server_time": "2027-01-15T08:00:00.000007Z"}


@pytest.fixture
async def overtaken() -> Overtaken:
    """A router that can be overtaken."""
    return Overtaken(a_router())


@pytest.fixture
def orders(overtaken: Overtaken) -> Orders:
    """The use cases over it."""
    return Orders(overtaken, StandingClock())  # type: ignore[arg-type]  # a router in all that is asked of it


async def test_who_is_overtaken_decides_again(orders: Orders, overtaken: Overtaken) -> None:
    """A transition that loses a race is decided anew, by what the winner has made of the order."""
    order_id = (await orders.create(DRAFT, None, soon())).order.order_id

    async def pay() -> None:
        await orders.transition(order_id, Verb.CONFIRM_PAYMENT, None, None, "", soon())

    overtaken.rival = pay
    with pytest.raises(OrderError) as refused:
        await orders.transition(order_id, Verb.CANCEL, None, None, "too late", soon())
    assert refused.value.reason is Reason.TRANSITION_NOT_ALLOWED
    assert refused.value.metadata["state"] == State.PAID.name

    async def ship() -> None:
        await orders.transition(order_id, Verb.SHIP, None, None, "", soon())

    overtaken.rival = ship
    refunded = await orders.transition(order_id, Verb.REFUND, None, None, "lost", soon())
    assert (refunded.order.version, refunded.replayed) == (4, False)
    assert [step.state for step in refunded.order.transitions[1:]] == [State.PAID, State.SHIPPED, State.REFUNDED]

    other_id = (await orders.create(DRAFT, None, soon())).order.order_id

    async def pay_other() -> None:
        await orders.transition(other_id, Verb.CONFIRM_PAYMENT, None, None, "", soon())

    overtaken.rival = pay_other
    with pytest.raises(OrderError) as stale:
        await orders.transition(other_id, Verb.CANCEL, None, 1, "", soon())
    assert stale.value.reason is Reason.VERSION_MISMATCH


async def test_who_is_overtaken_by_itself_is_a_replay(orders: Orders, overtaken: Overtaken) -> None:
    """Of two tries of one request at once one makes the version, and the other is answered it as a replay."""
    order_id = (await orders.create(DRAFT, None, soon())).order.order_id
    request_id = mint_uuid7(NOW_MS)

    async def pay() -> Any:  # noqa: ANN401  # order and flag
        return await orders.transition(order_id, Verb.CONFIRM_PAYMENT, request_id, 1, "", soon())

    overtaken.rival = pay
    assert await pay() == ((await orders.get(order_id, 2, Consistency.CACHED, soon())), True)
