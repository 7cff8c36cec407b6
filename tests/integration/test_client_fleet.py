"""How the client finds the workers, balances over them and follows them."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Sequence

import pytest

from clients import BlockingOrderClient, OrderClient, OrderLine, RetryPolicy, Unavailable
from protos.orders.v1 import orders_pb2
from tests.support.addresses import loopback
from tests.support.scripted_server import Hang, ScriptedServer
from tests.support.waiting import until

HOST = loopback(25)
LINES = [OrderLine("sku-1", 1, 100)]
QUICK = RetryPolicy(backoff_s=0.001)


@pytest.fixture
async def fleet() -> AsyncIterator[list[ScriptedServer]]:
    """Three workers that all advertise the three of them."""
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(ScriptedServer(f"{HOST}:0")) for _ in range(3)]
        for server in servers:
            await server.advertise([each.address for each in servers])
        yield servers


async def creates(client: OrderClient, count: int) -> None:
    """Creates so many orders, one after the other."""
    for _ in range(count):
        await client.create("zoe", "EUR", LINES)


def shares(servers: list[ScriptedServer]) -> list[int]:
    """How many creates each worker met."""
    return [len(server.sent(orders_pb2.CreateOrderRequest)) for server in servers]


async def balanced_over(client: OrderClient, servers: Sequence[ScriptedServer]) -> None:
    """Waits until these are what a client balances over: on a busy machine the first call may find the seeds alone."""

    async def addresses() -> set[str]:
        return set(client.addresses)

    await until(addresses, lambda found: found == {server.address for server in servers})


async def test_calls_are_balanced_over_the_workers(fleet: list[ScriptedServer]) -> None:
    """From one seed the client finds all workers, and each gets its turn."""
    async with OrderClient(fleet[0].address, policy=QUICK) as client:
        await balanced_over(client, fleet)
        await until(lambda: client.create("zoe", "EUR", LINES), lambda _: min(shares(fleet)) > 0)
        before = shares(fleet)
        await creates(client, 30)
        assert [after - earlier for after, earlier in zip(shares(fleet), before, strict=True)] == [10, 10, 10]
        assert "3 workers" in repr(client)


async def test_dead_and_draining_workers_get_no_calls(fleet: list[ScriptedServer]) -> None:
    """A worker that stops, and one that says NOT_SERVING, are left out without a failed call."""
    async with OrderClient([server.address for server in fleet], policy=QUICK) as client:
        await fleet[0].stop()
        await fleet[1].drain()

        async def turn() -> list[int]:
            before = shares(fleet)
            await creates(client, 10)
            return [after - earlier for after, earlier in zip(shares(fleet), before, strict=True)]

        await until(turn, lambda shares: shares == [0, 0, 10])  # the client is told of either by and by
        assert await turn() == [0, 0, 10]


async def test_the_worker_with_more_room_gets_more_calls(fleet: list[ScriptedServer]) -> None:
    """Calls go by the load that workers report with their answers; without balancing by weight they go evenly."""
    for server, utilization in zip(fleet, (0.9, 0.1, 0.9), strict=True):
        report = struct.pack("<BdBd", 6 << 3 | 1, 100.0, 9 << 3 | 1, utilization)  # xds.data.orca.v3.OrcaLoadReport
        server.trailers = (("endpoint-load-metrics-bin", report),)
    seeds = [server.address for server in fleet]
    async with OrderClient(seeds, policy=QUICK) as client:

        async def turn() -> list[int]:
            before = shares(fleet)
            await creates(client, 22)
            return [after - earlier for after, earlier in zip(shares(fleet), before, strict=True)]

        # of 11 parts the one with room has 9; weights are computed ten times a second, and connections take a moment
        await until(turn, lambda shares: shares[1] >= 16 and min(shares) > 0)
    async with OrderClient(seeds, policy=QUICK, balancing="round_robin") as client:
        await until(turn, lambda shares: max(shares) <= 8 and min(shares) >= 7)


def test_an_unknown_balancing_is_refused() -> None:
    """A name that is no policy is told at once, with those that are."""
    with pytest.raises(ValueError, match="weighted_round_robin, round_robin, pick_first"):
        OrderClient(HOST, balancing="random")


async def test_new_workers_are_followed(fleet: list[ScriptedServer]) -> None:
    """When the topology names other workers the calls go there, and calls under way are not cut off."""
    for server in fleet:
        await server.advertise([fleet[0].address])
    async with OrderClient(fleet[0].address, policy=QUICK) as client:
        watched = client.watch((await client.create("zoe", "EUR", LINES)).order.order_id)
        assert (await anext(watched)).version == 1
        for server in fleet[1:]:
            server.orders = fleet[0].orders
        await fleet[0].advertise([fleet[1].address, fleet[2].address])
        await balanced_over(client, fleet[1:])
        before = shares(fleet)
        await creates(client, 10)
        assert shares(fleet)[0] == before[0]
        await watched.aclose()


async def test_unreachable_workers_leave_the_client_on_its_seeds(fleet: list[ScriptedServer]) -> None:
    """Advertised addresses that nobody answers at are passed over, and the seeds serve on."""
    for server in fleet:
        await server.advertise([f"{HOST}:20999"])
    async with OrderClient(fleet[0].address, policy=QUICK) as client:
        assert client.addresses == (fleet[0].address,)
        await creates(client, 3)
    async with OrderClient(fleet[0].address, policy=QUICK, discover=False) as client:
        assert client.addresses == (fleet[0].address,)


async def test_workers_that_are_reached_late_are_balanced_over(
    fleet: list[ScriptedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that did not answer when the topology told of them are tried again, though it tells nothing new."""
    monkeypatch.setattr("clients.fleet.READY_TIMEOUT_S", 0.05)  # too short for anyone who is not there

    async def asked() -> int:
        return sum(method == "WatchTopology" for method, _ in fleet[0].requests)

    late = ScriptedServer(fleet[1].address)
    await fleet[1].stop()
    await fleet[0].advertise([late.address])
    async with OrderClient(fleet[0].address, policy=QUICK) as client:
        await creates(client, 1)
        await until(asked, lambda times: times >= 3)
        assert client.addresses == (fleet[0].address,)
        monkeypatch.undo()
        async with late:
            await balanced_over(client, [late])
            await creates(client, 1)
            assert len(late.orders) == 1


async def test_a_server_that_comes_late_is_found(fleet: list[ScriptedServer]) -> None:
    """A client that starts before its server fails its calls as Unavailable, and works as soon as there is one."""
    address = fleet[0].address
    await fleet[0].stop()
    async with OrderClient(address, policy=RetryPolicy(attempts_max=1)) as client:
        with pytest.raises(Unavailable):
            await client.get("x")
        async with ScriptedServer(address) as late:

            async def found() -> bool:
                with contextlib.suppress(Unavailable):
                    await client.create("zoe", "EUR", LINES)
                return bool(late.orders)

            await until(found, bool)


async def test_a_name_that_does_not_resolve_is_unavailable() -> None:
    """A seed without an address is a retryable error of the family, not a bare OSError."""
    client = OrderClient("no-such-host.invalid", policy=RetryPolicy(attempts_max=2, backoff_s=0.001))
    with pytest.raises(Unavailable, match=r"no-such-host\.invalid"):
        await client.get("x")
    await client.close()


async def test_the_blocking_face_is_the_same_client(fleet: list[ScriptedServer]) -> None:
    """Code without an event loop has every method, its errors and its iterators, from any thread."""

    def script() -> list[int]:
        with BlockingOrderClient(fleet[0].address, policy=QUICK, discover=False) as client:
            order = client.create("zoe", "EUR", LINES).order
            assert client.get(order.order_id) == order
            assert [each.order_id for each in client.list("zoe")] == [order.order_id]
            client.cancel(order.order_id, reason="test")
            assert "seeds only" in repr(client)
            versions = [each.version for each in client.watch(order.order_id)]
        with pytest.raises(RuntimeError, match="closed"):
            client.get(order.order_id)
        return versions

    assert await asyncio.to_thread(script) == [2]


async def test_looking_for_workers_does_not_outlast_the_call(
    fleet: list[ScriptedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topology that does not answer leaves a call with a short deadline its time, and the seeds to go to."""
    for module in ("calls", "fleet"):  # longer than the call may take, which is time enough on a busy machine
        monkeypatch.setattr(f"clients.{module}.DISCOVERY_TIMEOUT_S", 60.0)
    fleet[0].script("GetTopology", Hang())
    fleet[0].script("WatchTopology", Hang())
    client = OrderClient(fleet[0].address, policy=QUICK)
    created = await client.create("zoe", "EUR", LINES, deadline_s=3)
    assert created.order.version == 1
    assert client.addresses == (fleet[0].address,)
    await client.close()
