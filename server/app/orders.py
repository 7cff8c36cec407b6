"""Create, move and read orders.

Exactly one order a request: the id follows from (customer, request id), the store's conditional write lets one writer
win, and who loses compares the request's mark (its id and the digest of its payload) with the row that is there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from server.app import codec
from server.app.clock import Clock
from server.app.currencies import CURRENCIES
from server.app.failures import failure_of, read_failure_of
from server.app.latest import ENTRY_BYTES_MAX, Latest
from server.app.listing import Page, Query, list_page
from server.app.watching import Watching
from server.domain import limits
from server.domain import order as domain
from server.domain.errors import OrderError, Reason
from server.domain.order import Draft, Order
from server.domain.states import Verb
from shards.contract import Consistency, Outcome, Row, StoreError, Verdict
from shards.keys import format_uuid, mint_uuid7, order_id_of, time_ms_of
from shards.routing import Found, Router, Write

_TRANSITION_TRIES_MAX: Final = 16
"""An order has at most five versions, so a transition can lose to at most four others; the rest is slack."""


class Written(NamedTuple):
    """The order as a request left it, and whether an earlier try of the same request had done so."""

    order: Order
    replayed: bool


class New(NamedTuple):
    """An order that is yet to be stored, and what is to be stored of it."""

    order: Order
    write: Write


class Orders:
    """The use cases. All raise ``OrderError``; deadlines are absolute ``time.monotonic`` seconds.

    Cancelling a write does not undo it: it happens wholly or not at all, and the same request id tells which.
    """

    def __init__(self, router: Router, clock: Clock) -> None:
        self._router = router
        self._clock = clock
        self._watching = Watching(router)
        self._decoded = Latest(codec.decode, lambda row, _order: len(row.body) <= ENTRY_BYTES_MAX)

    def __repr__(self) -> str:
        return f"Orders({self._router!r}, {self._watching!r})"

    async def create(self, draft: Draft, request_id: bytes | None, deadline: float) -> Written:
        """Creates the order of a draft, or answers the one that the same request created before (version 1).

        ``request_id`` is a UUIDv7 (16 bytes); None mints one.
        """
        new = self.prepare(draft, request_id, self.now_us())
        earlier = await self.store(new.write, deadline)
        return Written(new.order, replayed=False) if earlier is None else Written(earlier, replayed=True)

    def now_us(self) -> int:
        """Returns Unix microseconds, for ``prepare``: orders that are asked for together may have them in common."""
        return self._clock.now_us()

    def prepare(self, draft: Draft, request_id: bytes | None, now_us: int) -> New:
        """Returns the order that a draft asks for. Of the same customer and request the id is the same.

        ``request_id`` is a UUIDv7 (16 bytes); None mints one. Raises ``OrderError``: INVALID_REQUEST, REQUEST_ID_AHEAD.
        """
        domain.validate_draft(draft, CURRENCIES)
        now_ms = now_us // 1_000
        if request_id is None:
            request_id = mint_uuid7(now_ms)
        elif time_ms_of(request_id) > now_ms + limits.REQUEST_ID_AHEAD_MS_MAX:
            raise OrderError(
                Reason.REQUEST_ID_AHEAD,
                f"the request_id is {(time_ms_of(request_id) - now_ms) / 1000:.0f} s ahead of the server: "
                "correct the clock, or mint a new id from server_time",
                metadata={"server_time": _rfc3339(now_us)},
            )
        order_id = order_id_of(draft.customer_id, request_id)
        order = domain.create(draft, order_id, now_us)
        mark = request_id + codec.draft_digest(draft)
        return New(order, Write(order_id, draft.customer_id, mark, codec.encode(order)))

    async def store(self, write: Write, deadline: float) -> Order | None:
        """Stores an order that was prepared; returns None, or the one that its request created before (version 1)."""
        try:
            outcome = await self._router.write(*write, deadline)
        except StoreError as error:
            raise failure_of(error) from error
        return self._earlier(write, outcome)

    async def store_many(self, writes: Sequence[Write], deadline: float) -> Sequence[Order | Exception | None]:
        """Stores many, each as ``store`` does; returns what came of each, in order. None fails another."""
        found = await self._router.write_many(writes, deadline)
        return [self._judged(write, became) for write, became in zip(writes, found, strict=True)]

    def _judged(self, write: Write, found: Found) -> Order | Exception | None:
        if isinstance(found, StoreError):
            failure = failure_of(found)
            failure.__cause__ = found
            return failure
        if isinstance(found, Exception):
            return found
        try:
            return self._earlier(write, found)
        except Exception as error:  # noqa: BLE001  one that is refused never fails the others
            return error

    def _earlier(self, write: Write, outcome: Outcome) -> Order | None:
        """Returns None for an order that is stored now, or as its request created it before. Raises ``OrderError``."""
        if outcome.verdict is Verdict.APPLIED:
            return None
        if outcome.verdict is Verdict.SEALED:
            raise OrderError(
                Reason.REQUEST_ID_EXPIRED,
                "the request_id is too old; no order exists under it and none ever will: mint a new one",
                metadata={"server_time": _rfc3339(self._clock.now_us())},
            )
        present = outcome.present
        order_id, customer, mark, _ = write
        if present is not None and present.customer == customer and present.mark(1) == mark:
            return codec.decode(present).as_of(1)
        raise _reused(order_id)

    async def transition(
        self,
        order_id: bytes,
        verb: Verb,
        request_id: bytes | None,
        expected_version: int | None,
        reason: str,
        deadline: float,
    ) -> Written:
        """Moves an order by a verb, or answers it as the same request left it before.

        ``request_id`` is a UUIDv7 (16 bytes), unique within the order; None mints one.
        """
        if request_id is None:
            request_id = mint_uuid7(self._clock.now_us() // 1_000)
        mark = request_id + codec.transition_digest(verb, expected_version, reason)
        row = await self._read_row(order_id, Consistency.STRONG, 0, deadline)
        for _ in range(_TRANSITION_TRIES_MAX):
            if made := row.version_made_by(request_id):
                if row.mark(made) != mark:
                    raise _reused(order_id)
                return Written(codec.decode(row).as_of(made), replayed=True)
            moved = domain.transition(codec.decode(row), verb, reason, expected_version, self._clock.now_us())
            try:
                outcome = await self._router.write(
                    order_id, row.customer, row.marks + mark, codec.encode(moved), deadline
                )
            except StoreError as error:
                raise failure_of(error) from error
            if outcome.verdict is Verdict.APPLIED:
                self._watching.changed(moved)
                return Written(moved, replayed=False)
            if outcome.present is None:
                raise _not_found(order_id)
            row = outcome.present
        raise OrderError(Reason.OUTCOME_UNKNOWN, "the order kept changing; retry", retry_after_s=0.1)

    async def get(self, order_id: bytes, min_version: int, consistency: Consistency, deadline: float) -> Order:
        """Returns the order at ``min_version`` (0: any) or later."""
        row = await self._read_row(order_id, consistency, min_version, deadline)
        if row.version < min_version:
            raise OrderError(
                Reason.MIN_VERSION_NOT_REACHED,
                f"the order is at version {row.version}; version {min_version} does not exist",
                metadata={"current_version": str(row.version), "min_version": str(min_version)},
            )
        return self._decoded.of(order_id, row)

    async def get_many(
        self, order_ids: Sequence[bytes], consistency: Consistency, deadline: float
    ) -> Mapping[bytes, Order | OrderError | None]:
        """Returns for each id its order, None where there is none, or why that is not known."""
        found = await self._router.read_many(order_ids, consistency, deadline=deadline)
        return {order_id: codec.decode_found(answer) for order_id, answer in found.items()}

    async def list(self, query: Query, deadline: float, fits: Callable[[Order], bool]) -> Page:
        """Returns a page of a customer's orders, newest first, as long as each ``fits`` the answer."""
        return await list_page(self._router, query, deadline, fits)

    async def watch(self, order_id: bytes, deadline: float) -> AsyncGenerator[Order, None]:
        """Yields the order's present state, then each later one (some may be skipped), until a final one."""
        async with self._watching.follow(order_id) as states:
            row = await self._read_row(order_id, Consistency.STRONG, 0, deadline)
            order = codec.decode(row)
            yield order
            while not order.is_final:
                later = await states.after(order.version)
                if isinstance(later, OrderError):
                    raise later
                order = later
                yield order

    async def close(self) -> None:
        """Ends what runs in the background. Idempotent."""
        await self._watching.close()

    async def _read_row(self, order_id: bytes, consistency: Consistency, min_version: int, deadline: float) -> Row:
        try:
            row = await self._router.read(order_id, consistency, min_version=min_version, deadline=deadline)
        except StoreError as error:
            raise read_failure_of(error) from error
        if row is None:
            raise _not_found(order_id)
        return row


def _not_found(order_id: bytes) -> OrderError:
    text = format_uuid(order_id)
    return OrderError(Reason.ORDER_NOT_FOUND, f"no order {text}: check the id", metadata={"order_id": text})


def _reused(order_id: bytes) -> OrderError:
    text = format_uuid(order_id)
    return OrderError(
        Reason.REQUEST_ID_REUSED,
        f"the request_id was used before with another payload, for order {text}: mint a new one",
        metadata={"order_id": text},
    )


def _rfc3339(time_us: int) -> str:
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC).replace(microsecond=time_us % 1_000_000, tzinfo=None)
    return moment.isoformat(timespec="microseconds") + "Z"
