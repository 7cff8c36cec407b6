"""Bugs that the checker of histories must convict, beside those of ``plants.ROWS``."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import pytest

from server.app import codec
from server.app.listing import Page, Query
from server.app.orders import Orders
from server.domain import order as domain
from server.domain.order import Draft, Order
from server.domain.states import TRANSITIONS, Verb
from shards.contract import APPLIED, Consistency, Outcome, Row
from shards.judging import Asker
from shards.keys import Key
from shards.lanes import Lanes
from shards.wrappers.cached import CachedStore
from tests.simulation import plants
from tests.simulation.faulty_store import FaultyStore
from tests.simulation.history_world import Workers
from tests.support.history import Operation, Result
from tests.support.memory_store import MemoryStore

PLANTS: Final = plants.Plants(plants.ROWS)


@PLANTS.add
def acknowledged_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """A write is answered when it is queued."""
    put = Lanes.put

    def hasty(self: Lanes, row: Row, deadline: float, outcome: Asker, *, is_unknown: bool = False) -> None:
        nobody: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        nobody.add_done_callback(lambda done: done.cancelled() or done.exception())
        put(self, row, deadline, nobody, is_unknown=is_unknown)
        outcome.set_result(APPLIED)

    patch.setattr(Lanes, "put", hasty)


@PLANTS.add
def the_store_checks_no_version(patch: pytest.MonkeyPatch) -> None:
    """A row replaces whatever is there."""
    patch.setattr(MemoryStore, "_judge", lambda _, __: APPLIED)


@PLANTS.add
def late_writes_land_on_newer_ones(patch: pytest.MonkeyPatch) -> None:
    """A write whose reply was lost lands later whatever came between: the order of writes is turned round."""

    def land(self: FaultyStore, rows: Sequence[Row]) -> None:
        self.rows.update((row.key, row) for row in rows)

    patch.setattr(FaultyStore, "_land", land)


@PLANTS.add
def transitions_are_decided_from_the_cache(patch: pytest.MonkeyPatch) -> None:
    """A transition looks at the cached version, and is refused by what is no more."""
    read = Orders._read_row

    async def cached(self: Orders, order_id: bytes, _: Consistency, min_version: int, deadline: float) -> Row:
        return await read(self, order_id, Consistency.CACHED, min_version, deadline)

    patch.setattr(Orders, "_read_row", cached)


@PLANTS.add
def strong_reads_ask_the_cache(patch: pytest.MonkeyPatch) -> None:
    """A STRONG read is answered from memory."""
    read = CachedStore.read

    async def weak(self: CachedStore, keys: Sequence[Key], _: Consistency) -> Sequence[Row | None]:
        return await read(self, keys, Consistency.CACHED)

    patch.setattr(CachedStore, "read", weak)


def _asked(patch: pytest.MonkeyPatch, change: Callable[[Operation], Operation]) -> None:
    """Changes what goes over the wire, while the caller believes to have sent it unchanged."""
    ask = Workers._ask

    def changed(self: Workers, worker: Orders, operation: Operation) -> Awaitable[Result]:
        return ask(self, worker, change(operation))

    patch.setattr(Workers, "_ask", changed)


@PLANTS.add
def retries_have_no_request_id(patch: pytest.MonkeyPatch) -> None:
    """The second try of a create is sent without its id, so the server mints another."""
    sent: set[str] = set()

    def forget(operation: Operation) -> Operation:
        if operation.request not in sent or operation.kind != "create":
            sent.add(operation.request)
            return operation
        anonymous = copy.copy(operation)
        anonymous.request = ""
        return anonymous

    _asked(patch, forget)


@PLANTS.add
def the_expected_version_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """A transition is made whatever version its caller expects."""
    transition = domain.transition

    def careless(order: Order, verb: Verb, reason: str, _: int | None, now_us: int) -> Order:
        return transition(order, verb, reason, None, now_us)

    patch.setattr(domain, "transition", careless)


@PLANTS.add
def any_state_may_be_refunded(patch: pytest.MonkeyPatch) -> None:
    """The life cycle has a hole."""
    sources, target = TRANSITIONS[Verb.REFUND]
    patch.setitem(TRANSITIONS, Verb.REFUND, (sources | TRANSITIONS[Verb.CANCEL][0], target))


@PLANTS.add
def a_transition_is_lost(patch: pytest.MonkeyPatch) -> None:
    """Now and then a later version is called stored and is not."""
    apply = MemoryStore.apply
    chance = random.Random(1)

    def forgetful(self: MemoryStore, rows: Sequence[Row]) -> list[Outcome]:
        before = dict(self.rows)
        outcomes = apply(self, rows)
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome is APPLIED and row.version > 1 and chance.random() < 0.05:
                self.rows[row.key] = before[row.key]
        return outcomes

    patch.setattr(MemoryStore, "apply", forgetful)


@PLANTS.add
def a_repeated_transition_is_not_recognised(patch: pytest.MonkeyPatch) -> None:
    """The request id of a transition is not looked for among those that took effect."""
    patch.setattr(Row, "version_made_by", lambda _, __: 0)


@PLANTS.add
def a_repeated_transition_takes_effect_again(patch: pytest.MonkeyPatch) -> None:
    """A repeated transition makes another version in the same state."""
    transition = domain.transition

    def again(order: Order, verb: Verb, reason: str, expected: int | None, now_us: int) -> Order:
        if order.state is TRANSITIONS[verb][1] and expected in (None, order.version):
            return order._replace(transitions=(*order.transitions, order.transitions[-1]))
        return transition(order, verb, reason, expected, now_us)

    patch.setattr(domain, "transition", again)
    patch.setattr(Row, "version_made_by", lambda _, __: 0)


@PLANTS.add
def a_replay_answers_the_present(patch: pytest.MonkeyPatch) -> None:
    """A repeated request is answered the order as it is now, not as the request left it."""
    patch.setattr(Order, "as_of", lambda self, _: self)


@PLANTS.add
def a_replay_has_other_bytes(patch: pytest.MonkeyPatch) -> None:
    """A repeated request is answered a time of its own."""

    def retouched(self: Order, version: int) -> Order:
        *steps, last = self.transitions[:version]
        return self._replace(transitions=(*steps, last._replace(time_us=last.time_us + 1)))

    patch.setattr(Order, "as_of", retouched)


@PLANTS.add
def another_payload_passes_for_a_replay(patch: pytest.MonkeyPatch) -> None:
    """The digest of the payload is not compared."""
    patch.setattr(codec, "draft_digest", lambda _: bytes(16))
    patch.setattr(codec, "transition_digest", lambda *_: bytes(16))


@PLANTS.add
def the_minimum_version_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """A cached answer is given though the caller has seen a newer one."""
    get = Orders.get

    async def careless(
        self: Orders, order_id: bytes, min_version: int, consistency: Consistency, deadline: float
    ) -> Order:
        return await get(self, order_id, min(min_version, 0), consistency, deadline)

    patch.setattr(Orders, "get", careless)


@PLANTS.add
def a_list_ends_early(patch: pytest.MonkeyPatch) -> None:
    """A list leaves out the newest order."""
    listing = Orders.list

    async def short(self: Orders, query: Query, deadline: float, fits: Callable[[Order], bool]) -> Page:
        page = await listing(self, query, deadline, fits)
        return page._replace(orders=page.orders[1:])

    patch.setattr(Orders, "list", short)


@PLANTS.add
def a_list_is_read_from_behind(patch: pytest.MonkeyPatch) -> None:
    """A list tells each order as it was created."""
    listing = Orders.list

    async def old(self: Orders, query: Query, deadline: float, fits: Callable[[Order], bool]) -> Page:
        page = await listing(self, query, deadline, fits)
        return page._replace(orders=tuple(order.as_of(1) for order in page.orders))

    patch.setattr(Orders, "list", old)


@PLANTS.add
def one_request_makes_two_orders(patch: pytest.MonkeyPatch) -> None:
    """Now and then a create is carried out twice, the second time under an id that nobody asked for."""
    create = Orders.create
    chance = random.Random(1)

    async def twice(self: Orders, draft: Draft, request_id: bytes | None, deadline: float) -> object:
        if chance.random() < 0.05:
            await create(self, draft, None, deadline)
        return await create(self, draft, request_id, deadline)

    patch.setattr(Orders, "create", twice)
