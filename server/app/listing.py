"""A customer's orders by pages, newest first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

from server.app import codec
from server.app.failures import read_failure_of
from server.app.paging import decode_token, encode_token
from server.domain import limits
from server.domain.errors import Violation, invalid
from server.domain.order import Order, text_problem
from server.domain.states import State
from shards.contract import StoreError
from shards.routing import Router

_SCAN_ROWS: Final = 256
"""Rows read at once while looking for orders in one state."""

_SCAN_ROWS_MAX: Final = 4_096
"""Rows that one page looks at before it ends, perhaps empty, with a token: a bound on the work of a call."""


class Page(NamedTuple):
    """Orders, newest first, and the token of the next page ("" after the last)."""

    orders: tuple[Order, ...]
    next_page_token: str


class Query(NamedTuple):
    """Which orders, and from where on. ``page_size`` 0 means the default, and is capped."""

    customer_id: str
    state: State | None
    page_size: int
    page_token: str


async def list_page(router: Router, query: Query, deadline: float, fits: Callable[[Order], bool]) -> Page:
    """Returns one page. Raises ``OrderError`` (INVALID_REQUEST, PAGE_TOKEN_INVALID, or that of the store).

    An order that cannot be read fails the page, and is named: without it the page would not be what it says.
    ``fits`` is asked once for each order, in order, whether the answer has room for it; it has for the first. At the
    first that it has no room for the page ends.
    """
    validate(query)
    customer_id, state, page_size, page_token = query
    wanted = min(page_size or limits.PAGE_SIZE_DEFAULT, limits.PAGE_SIZE_MAX)
    last = decode_token(customer_id, state, page_token) if page_token else None
    # one row more than wanted tells whether there is a next page
    rows_a_read = wanted + 1 if state is None else _SCAN_ROWS
    orders: list[Order] = []
    scanned = 0
    async for order in _newest_first(router, customer_id, last, rows_a_read, deadline):
        is_wanted = state is None or order.state is state
        if scanned == _SCAN_ROWS_MAX or (is_wanted and (len(orders) == wanted or not fits(order))):
            assert last is not None  # the first order is never refused
            return Page(tuple(orders), encode_token(customer_id, state, last))
        if is_wanted:
            orders.append(order)
        scanned += 1
        last = order.order_id
    return Page(tuple(orders), "")


def validate(query: Query) -> None:
    """Raises the INVALID_REQUEST ``OrderError`` that names every bad field of a query."""
    bad: list[Violation] = []
    if problem := text_problem(query.customer_id, limits.CUSTOMER_ID_BYTES_MAX):
        bad.append(Violation("customer_id", problem))
    if query.page_size < 0:
        bad.append(Violation("page_size", f"is {query.page_size}; 0 means {limits.PAGE_SIZE_DEFAULT}"))
    if bad:
        raise invalid(bad)


async def _newest_first(
    router: Router, customer_id: str, before: bytes | None, rows_a_read: int, deadline: float
) -> AsyncIterator[Order]:
    while True:
        try:
            rows = await router.list_customer(customer_id, before, rows_a_read, deadline=deadline)
        except StoreError as error:
            raise read_failure_of(error) from error
        for row in rows:
            yield codec.decode(row)
        if len(rows) < rows_a_read:
            return
        before = rows[-1].key.order_id
