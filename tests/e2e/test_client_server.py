"""The client library and plain stubs against the real server, over both transports."""

import asyncio
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from clients import (
    BlockingOrderClient,
    Consistency,
    Created,
    InvalidRequest,
    NewOrder,
    NotFound,
    OrderClient,
    OrderLine,
    Reason,
    RequestIdExpired,
    RequestIdReused,
    RequestIds,
    RetryPolicy,
    State,
    TransitionNotAllowed,
    VersionMismatch,
)
from protos.orders.v1 import orders_pb2, orders_pb2_grpc
from tests.support.addresses import loopback
from tests.support.crest import Crest, create_request, orders
from tests.support.proxy import Proxy
from tests.support.storage import SETUPS, storage
from tests.support.waiting import until

HOST = loopback(25)
PORT = 20600
SEED = f"{HOST}:{PORT}"
WORKERS = 2
LINES = [OrderLine("sku-1", 2, 1999), OrderLine("sku-2", 1, 1)]
SERVICE_CONFIG = Path(__file__).resolve().parents[2] / "clients" / "service_config.json"
HOUR_MS = 3_600_000
LOAD_KEYS = (b"endpoint-load-metrics-bin", bytes.fromhex("2d5256735495a838e45a92a6c3110b466abf"))
"""The trailer's name as it is, and in the Huffman code of HPACK (RFC 7541, appendix B)."""


@pytest.fixture(scope="module", params=SETUPS, ids="-".join)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crest]:
    """A server of two workers, on each transport and each storage."""
    data_dir = tmp_path_factory.mktemp("crest") / "data"
    transport, name = request.param
    flags = ("--workers", str(WORKERS), "--transport", transport, *storage(name).flags)
    with Crest(HOST, PORT, data_dir, *flags) as server:
        server.wait_serving(WORKERS)
        yield server


def kill(server: Crest, number: int) -> int:
    """Kills a worker with -9; returns how often it was ready until then."""
    ready = server.logged("a child is ready", child=f"worker-{number}")
    next(child for child in server.children() if child.pid == ready[-1]["pid"]).kill()
    return len(ready)


def wait_back(server: Crest, number: int, boots: int) -> None:
    """Waits until the successor of a killed worker serves."""
    server.wait_ready(f"worker-{number}", boots + 1)


async def balances_over_all(client: OrderClient) -> None:
    """Waits until a client knows every worker: on a busy machine its first call may find the shared port alone."""

    async def addresses() -> set[str]:
        return set(client.addresses)

    await until(addresses, lambda found: found == {f"{HOST}:{PORT + 1 + number}" for number in range(WORKERS)})


@pytest.fixture
def customer(server: Crest) -> str:
    """A customer without orders; asks for the server."""
    assert server.pid
    return f"customer-{uuid.uuid4()}"


async def test_orders_go_through_their_life(customer: str) -> None:
    """What a caller creates, moves and reads is what the service says, to the last field."""
    async with OrderClient(SEED) as client:
        created = await client.create(customer, "EUR", LINES, attributes={"channel": "web"})
        order = created.order
        assert (order.customer_id, order.total_minor, order.version, order.state) == (customer, 3999, 1, State.PENDING)
        assert order.lines == tuple(LINES)
        assert await client.get(order.order_id) == order
        paid = (await client.confirm_payment(order.order_id, expected_version=1)).order
        assert (await client.get(order.order_id, min_version=2)) == paid
        with pytest.raises(VersionMismatch) as stale:
            await client.ship(order.order_id, expected_version=1)
        assert stale.value.metadata["current_version"] == "2"
        with pytest.raises(TransitionNotAllowed) as refused:
            await client.cancel(order.order_id, reason="late")
        assert "RefundOrder" in refused.value.metadata["allowed_methods"]
        request_id = client.request_ids.mint()
        refund = await client.refund(order.order_id, reason="broken", request_id=request_id)
        assert refund.order.transitions[-1].reason == "broken"
        again = await client.refund(order.order_id, reason="broken", request_id=request_id)
        assert (again.order, again.replayed) == (refund.order, True)


async def test_a_request_is_one_order(customer: str) -> None:
    """The same request id is the same order through every worker, and with another payload it is refused."""
    async with OrderClient(SEED) as client:
        request_id = client.request_ids.mint()
        answers = await asyncio.gather(
            *(client.create(customer, "EUR", LINES, request_id=request_id) for _ in range(8))
        )
        assert len({answer.order.order_id for answer in answers}) == 1
        assert sum(not answer.replayed for answer in answers) == 1
        with pytest.raises(RequestIdReused) as reused:
            await client.create(customer, "USD", LINES, request_id=request_id)
        assert reused.value.metadata["order_id"] == answers[0].order.order_id


async def test_refusals_are_typed(customer: str) -> None:
    """Wrong requests come back with reason and every bad field, unknown orders as NotFound."""
    async with OrderClient(SEED) as client:
        with pytest.raises(InvalidRequest) as refused:
            await client.create(customer, "EUX", [OrderLine("", 0, -1)])
        assert refused.value.reason == Reason.INVALID_REQUEST
        fields = {violation.field for violation in refused.value.violations}
        assert fields == {"currency_code", "lines[0].sku", "lines[0].quantity", "lines[0].unit_price_minor"}
        with pytest.raises(NotFound):
            await client.get(client.request_ids.mint(), consistency=Consistency.STRONG)


@pytest.mark.parametrize("wrong_by_ms", [HOUR_MS, -HOUR_MS * 24])
async def test_a_caller_with_a_wrong_clock_is_served(customer: str, wrong_by_ms: int) -> None:
    """A clock an hour ahead, or a day behind, costs one refused attempt and is right from then on."""
    ids = RequestIds(clock_ms=lambda: time.time_ns() // 1_000_000 + wrong_by_ms)
    async with OrderClient(SEED, request_ids=ids) as client:
        for _ in range(2):
            assert not (await client.create(customer, "EUR", LINES)).replayed
        assert abs(ids.offset_ms + wrong_by_ms) < 60_000
        expired = RequestIds(clock_ms=lambda: 1_000_000_000_000).mint()
        with pytest.raises(RequestIdExpired):
            await client.create(customer, "EUR", LINES, request_id=expired)


async def test_many_orders_come_back_in_a_list(customer: str) -> None:
    """Orders of a batch and of a stream are all listed, newest first, and found by their ids."""
    drafts = [NewOrder(customer, "EUR", [OrderLine(f"sku-{i}", 1, i)]) for i in range(120)]
    async with OrderClient(SEED) as client:
        batch = [result.order for result in await client.batch_create(drafts[:60]) if isinstance(result, Created)]
        streamed = [fate.result.order async for fate in client.submit(drafts[60:]) if isinstance(fate.result, Created)]
        listed = [order async for order in client.list(customer, page_size=50)]
        ids = [order.order_id for order in listed]
        assert ids == sorted(ids, reverse=True)
        assert {order.order_id: order for order in listed} == {o.order_id: o for o in (*batch, *streamed)}
        assert len(listed) == 120
        missing = client.request_ids.mint()
        found = await client.batch_get([*ids, missing])
        assert [order.order_id for order in found.orders] == ids
        assert found.missing_order_ids == (missing,)


async def test_request_ids_of_a_stream_may_repeat(customer: str) -> None:
    """Two customers under one request id have an order each, and an id too long to come back whole has its refusal."""
    async with OrderClient(SEED) as client:
        same = client.request_ids.mint()
        asked = [(f"{customer} a", same), (f"{customer} b", same), (customer, "x" * 129)]
        drafts = [NewOrder(name, "EUR", LINES, request_id=request_id) for name, request_id in asked]
        results = {fate.position: fate.result async for fate in client.submit(drafts, deadline_s=20)}
    orders = [result.order.customer_id for _, result in sorted(results.items()) if isinstance(result, Created)]
    assert orders == [f"{customer} a", f"{customer} b"]
    assert isinstance(results[2], InvalidRequest)


async def test_a_watch_sees_changes_made_elsewhere(customer: str) -> None:
    """A watch shows what other callers do, in rising versions, and ends when the order does."""
    async with OrderClient(SEED) as watcher, OrderClient(SEED) as other:
        order = (await other.create(customer, "EUR", LINES)).order
        versions = []
        async for seen in watcher.watch(order.order_id, deadline_s=30):
            versions.append(seen.version)
            if seen.state is State.PENDING:
                await other.confirm_payment(order.order_id)
            elif seen.state is State.PAID:
                await other.refund(order.order_id)
        assert versions == [1, 2, 3]


async def test_the_death_of_workers_fails_no_call(server: Crest, customer: str) -> None:
    """While each worker is killed in turn every call succeeds, balanced over all of them, and makes one order."""
    async with OrderClient(SEED, deadline_s=60) as client:
        await balances_over_all(client)
        over = asyncio.Event()
        created: list[str] = []

        async def caller() -> None:
            while not over.is_set():
                created.append((await client.create(customer, "EUR", LINES)).order.order_id)

        callers = [asyncio.create_task(caller()) for _ in range(4)]
        for number in range(WORKERS):
            await asyncio.to_thread(wait_back, server, number, kill(server, number))
        over.set()
        await asyncio.gather(*callers)
        listed = [order.order_id async for order in client.list(customer, page_size=1000)]
        assert sorted(listed) == sorted(created)


async def test_plain_stubs_balance_by_the_shipped_config(server: Crest, customer: str) -> None:
    """With the service config file a plain stub finds every worker, and its reads survive the death of each."""
    addresses = ",".join(f"{HOST}:{PORT + 1 + number}" for number in range(WORKERS))
    options = [
        ("grpc.service_config", SERVICE_CONFIG.read_text()),
        ("grpc.default_authority", HOST),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with OrderClient(SEED) as client, grpc.aio.insecure_channel(f"ipv4:{addresses}", options=options) as channel:
        order = (await client.create(customer, "EUR", LINES)).order
        stub: orders_pb2_grpc.OrderServiceAsyncStub = orders_pb2_grpc.OrderServiceStub(channel)
        request = orders_pb2.GetOrderRequest(order_id=order.order_id)

        async def read() -> int:
            return (await stub.GetOrder(request, wait_for_ready=True)).order.version

        for number in range(WORKERS):
            assert [await read() for _ in range(10)] == [1] * 10
            boots = kill(server, number)
            assert [await read() for _ in range(50)] == [1] * 50
            await asyncio.to_thread(wait_back, server, number, boots)


def test_the_blocking_face_works(customer: str) -> None:
    """A script without an event loop creates, lists and follows."""
    with BlockingOrderClient(SEED) as client:
        order = client.create(customer, "EUR", LINES).order
        assert [listed.order_id for listed in client.list(customer)] == [order.order_id]
        client.cancel(order.order_id)
        assert [seen.version for seen in client.watch(order.order_id)] == [2]


async def test_concurrent_calls_of_one_client_are_each_their_own(customer: str) -> None:
    """Hundreds of creates and gets at once, sent together, bring each caller the order that is its own."""
    async with OrderClient(SEED) as client:
        customers = [f"{customer} {i}" for i in range(300)]
        created = await asyncio.gather(*(client.create(customer, "EUR", LINES) for customer in customers))
        assert [each.order.customer_id for each in created] == customers
        assert not any(each.replayed for each in created)
        bad, good = await asyncio.gather(
            client.create(customer, "EUR", []), client.create(customer, "EUR", LINES), return_exceptions=True
        )
        assert isinstance(bad, InvalidRequest)
        assert bad.violations[0].field == "lines"
        assert isinstance(good, Created)
        found = await asyncio.gather(*(client.get(each.order.order_id) for each in created))
        assert [order.order_id for order in found] == [each.order.order_id for each in created]
        with pytest.raises(NotFound):
            await client.get(str(uuid.UUID(int=uuid.UUID(found[0].order_id).int ^ 1)))


class Tap(Proxy):
    """A proxy that keeps what was answered through it."""

    def __init__(self, host: str, port: int, target: tuple[str, int]) -> None:
        super().__init__(host, port, target)
        self.answered = b""

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        while chunk := await reader.read(65_536):
            if replies:
                self.answered += chunk
            writer.write(chunk)
            await writer.drain()


async def test_answers_tell_how_busy_their_worker_is(customer: str) -> None:
    """Answers of a worker that has served for a moment carry its load, for callers that balance by it."""
    request = create_request(customer)
    async with (  # gRPC keeps this trailer from its callers, so it is looked for on the wire
        Tap(HOST, 0, (HOST, PORT + 1)) as tap,
        grpc.aio.insecure_channel(tap.endpoint, options=[("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):

        async def answered() -> bytes:
            await orders(channel).CreateOrder(request, wait_for_ready=True)
            return tap.answered

        await until(answered, lambda data: any(key in data for key in LOAD_KEYS))


async def test_a_stopped_worker_holds_no_calls(server: Crest, customer: str) -> None:
    """With a worker stopped, its connections open, every call is answered by the others within its first attempts."""
    pids = [server.logged("a child is ready", child=f"worker-{number}")[-1]["pid"] for number in range(WORKERS)]
    stopped = psutil.Process(pids[0])
    # an attempt lasts longer than the test may: who is held by the stopped worker until its end fails
    patient = RetryPolicy(attempt_timeout_s=20)
    async with OrderClient(SEED, policy=patient, deadline_s=20, coalesce=False) as client:
        await balances_over_all(client)
        await asyncio.gather(*(client.create(customer, "EUR", LINES) for _ in range(20)))
        stopped.suspend()
        try:
            for _ in range(3):
                created = await asyncio.gather(*(client.create(customer, "EUR", LINES) for _ in range(20)))
                assert len({each.order.order_id for each in created}) == 20
        finally:
            stopped.resume()
