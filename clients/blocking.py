"""The blocking face: the same client for code without an event loop, such as scripts, workers and notebooks."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from typing import Concatenate, ParamSpec, Self, TypedDict, TypeVar, Unpack

from clients.client import ENDPOINT_DEFAULT, OrderClient
from clients.request_ids import RequestIds
from clients.retry import RetryBudget, RetryPolicy
from clients.tls import Tls

P = ParamSpec("P")
T = TypeVar("T")


def _call(
    method: Callable[Concatenate[OrderClient, P], Awaitable[T]],
) -> Callable[Concatenate[BlockingOrderClient, P], T]:
    @functools.wraps(method)
    def blocking(self: BlockingOrderClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(lambda: method(self._client, *args, **kwargs))

    return blocking


def _iterate(
    method: Callable[Concatenate[OrderClient, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[BlockingOrderClient, P], Iterator[T]]:
    @functools.wraps(method)
    def blocking(self: BlockingOrderClient, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items = method(self._client, *args, **kwargs)
        try:
            while True:
                try:
                    yield self._run(items.__anext__)
                except StopAsyncIteration:
                    return
        finally:
            if not self._closed:  # closing the client has ended the iteration already
                self._run(items.aclose)

    return blocking


class Settings(TypedDict, total=False):
    """What ``OrderClient`` takes beside the endpoints; a test holds the two together."""

    caller_id: str
    deadline_s: float
    policy: RetryPolicy | None
    budget: RetryBudget | None
    request_ids: RequestIds | None
    discover: bool
    coalesce: bool
    balancing: str
    tls: Tls | None
    priority: str


class BlockingOrderClient:
    """``OrderClient`` with blocking methods, safe to share between threads.

        with BlockingOrderClient("127.0.0.1:50051") as client:
            for order in client.list("zoe"):
                print(order.order_id, order.state.name)

    The calls run on an event loop in a thread of its own. Constructor, methods and errors are those of
    ``OrderClient``; a ``KeyboardInterrupt`` cancels the call under way.
    """

    def __init__(self, endpoints: str | Iterable[str] = ENDPOINT_DEFAULT, **settings: Unpack[Settings]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="crest-client", daemon=True)
        self._thread.start()
        self._closed = False

        async def construct() -> OrderClient:
            return OrderClient(endpoints, **settings)

        try:
            self._client = self._run(construct)
        except BaseException:
            self._stop()
            raise

    def __repr__(self) -> str:
        return repr(self._client).replace("<", "<Blocking", 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels the calls under way, closes the connections and ends the thread. Idempotent."""
        if not self._closed:
            self._closed = True
            try:
                self._run(self._client.close)
            finally:
                self._stop()

    create = _call(OrderClient.create)
    batch_create = _call(OrderClient.batch_create)
    submit = _iterate(OrderClient.submit)
    get = _call(OrderClient.get)
    batch_get = _call(OrderClient.batch_get)
    list_page = _call(OrderClient.list_page)
    list = _iterate(OrderClient.list)
    watch = _iterate(OrderClient.watch)
    topology = _call(OrderClient.topology)
    confirm_payment = _call(OrderClient.confirm_payment)
    ship = _call(OrderClient.ship)
    deliver = _call(OrderClient.deliver)
    cancel = _call(OrderClient.cancel)
    refund = _call(OrderClient.refund)

    def _run(self, start: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await start()

        if not self._loop.is_running():
            raise RuntimeError("the client is closed")
        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
