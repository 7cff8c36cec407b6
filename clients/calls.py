"""One logical call: its attempts, their deadline, and what a failure becomes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import grpc

from clients import errors
from clients.errors import OrderError, Overloaded, Unavailable
from clients.fleet import DISCOVERY_TIMEOUT_S, READY_TIMEOUT_S, Fleet, Link
from clients.retry import Attempts, RetryBudget, RetryPolicy
from clients.throttle import Throttle

if TYPE_CHECKING:
    from grpc.aio import StreamStreamMultiCallable, UnaryStreamMultiCallable, UnaryUnaryMultiCallable

    UnaryMethod = Callable[[Link], UnaryUnaryMultiCallable["RequestT", "ResponseT"]]
    """Picks the method of a link's stub: each attempt may go over another link."""
    StreamMethod = Callable[[Link], UnaryStreamMultiCallable["RequestT", "ResponseT"]]
    BidiMethod = Callable[[Link], StreamStreamMultiCallable["RequestT", "ResponseT"]]

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


HELD_BACK_S = 0.2
"""The retry hint of a call that was held back: as the service's own of a call that it refuses."""


class Calls:
    """Makes logical calls over a fleet, with one policy and one budget for all of them."""

    def __init__(
        self, fleet: Fleet, *, policy: RetryPolicy, budget: RetryBudget, metadata: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.fleet = fleet
        self.policy = policy
        self.budget = budget
        self.metadata = tuple(metadata)
        self._throttles: dict[type, Throttle] = {}  # by the request's type, so one a method

    def attempts(self, deadline_s: float | None) -> Attempts:
        """Returns the attempts of a logical call that ends in ``deadline_s`` seconds from now; None: never."""
        if deadline_s is not None and deadline_s <= 0:
            raise ValueError(f"deadline_s is {deadline_s}, which is over before it begins")
        deadline = math.inf if deadline_s is None else time.monotonic() + deadline_s
        return Attempts(self.policy, self.budget, deadline)

    async def unary(self, method: UnaryMethod[RequestT, ResponseT], request: RequestT, attempts: Attempts) -> ResponseT:
        """Calls until an answer, an error that no retry helps, or the end of attempts, deadline or budget.

        Raises OrderError. Safe for every method of the service: reads change nothing, and the write is the same write
        by its request id. Cancelling the caller cancels the attempt under way.
        """
        return await self.persist(lambda: self.attempt(method, request, attempts), attempts)

    async def persist(
        self, send: Callable[[], Awaitable[ResponseT]], attempts: Attempts, *, counted: bool = False
    ) -> ResponseT:
        """As ``unary``, with ``send`` making an attempt; ``counted`` says that it counts its successes itself."""
        while True:
            try:
                response = await send()
            except OrderError as error:
                await self.wait_or_raise(error, attempts)
            else:
                attempts.progressed(counted=counted)
                return response

    async def attempt(
        self, method: UnaryMethod[RequestT, ResponseT], request: RequestT, attempts: Attempts
    ) -> ResponseT:
        """Makes one attempt; raises OrderError.

        The first one fails at once when no worker can be reached. Later ones wait for a worker instead, within their
        time: as long as nobody is there, asking again and again would only spend attempts and budget.
        """
        return await self.once(method, request, attempts.timeout_s, wait_for_ready=attempts.failed > 0)

    async def once(
        self, method: UnaryMethod[RequestT, ResponseT], request: RequestT, timeout_s: float, *, wait_for_ready: bool
    ) -> ResponseT:
        """Makes one call, or holds it back when most like it were refused lately; raises OrderError."""
        throttle = self._throttles.get(type(request))
        if throttle is None:
            throttle = self._throttles[type(request)] = Throttle()
        if throttle.holds_back():
            raise Overloaded(
                "held back by this client: most such calls were refused lately",
                code=grpc.StatusCode.RESOURCE_EXHAUSTED,
                retry_delay_s=HELD_BACK_S,
            )
        # Finding the workers may take half of the time; the seeds serve meanwhile.
        began = time.monotonic()
        link = await self.link(timeout_s / 2)
        timeout_s = max(0.0, timeout_s - (time.monotonic() - began))
        try:
            with link.used():
                response = await method(link)(
                    request, timeout=timeout_s, metadata=self.metadata, wait_for_ready=wait_for_ready
                )
        except grpc.aio.AioRpcError as failure:
            error = errors.from_rpc(failure)
            if isinstance(error, Overloaded):
                throttle.refused()
            else:
                throttle.accepted()
            raise error from failure
        throttle.accepted()
        return response

    async def stream(
        self, method: StreamMethod[RequestT, ResponseT], request: RequestT, attempts: Attempts
    ) -> AsyncGenerator[ResponseT, None]:
        """Yields the messages of one stream, not repeated; raises OrderError."""
        link = await self.link()
        timeout = attempts.remaining_s if math.isfinite(attempts.deadline) else None
        with link.used():
            wait = attempts.failed > 0
            call = method(link)(request, timeout=timeout, metadata=self.metadata, wait_for_ready=wait)
            try:
                async for message in call:
                    yield message
            except grpc.aio.AioRpcError as failure:
                raise errors.from_rpc(failure) from failure
            finally:
                call.cancel()

    async def wait_or_raise(self, error: OrderError, attempts: Attempts) -> None:
        """Waits before the next attempt, or raises the error when there is none."""
        delay_s = attempts.next_delay_s(error)
        if delay_s is None:
            raise attempts.telling(error)
        await asyncio.sleep(delay_s)

    async def link(self, patience_s: float = math.inf) -> Link:
        """Returns the present link; a name that does not resolve is a retryable OrderError."""
        try:
            return await self.fleet.link(min(patience_s, DISCOVERY_TIMEOUT_S + READY_TIMEOUT_S))
        except OSError as failure:
            raise Unavailable(str(failure), code=grpc.StatusCode.UNAVAILABLE) from failure
