import asyncio

from clients import OrderClient, OrderLine, RetryPolicy
from tests.support.addresses import loopback
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import until

HOST = loopback(30)
QUICK = RetryPolicy(backoff_s=0.001, backoff_max_s=0.001)


async def test_a_stream_that_is_opened_again_shows_nothing_twice() -> None:
    """However often its stream ends and begins anew, a watch yields each version once."""
    versions: list[int] = []
    async with (
        asyncio.timeout(60),
        ScriptedServer(f"{HOST}:0") as server,
        OrderClient(server.address, policy=QUICK, discover=False) as client,
    ):
        order = (await client.create("zoe", "EUR", [OrderLine("sku-1", 1, 100)])).order

        async def follow() -> None:
            versions.extend([seen.version async for seen in client.watch(order.order_id)])

        async def opened() -> int:
            return sum(method == "WatchOrder" for method, _ in server.requests)

        following = asyncio.create_task(follow())
        await until(opened, lambda count: count >= 3)  # the scripted server ends each stream after the present state
        await client.cancel(order.order_id)
        await following
    assert versions == [1, 2]
