"""A stream of creates keeps to the retry budget, item by item."""

import grpc

from clients import NewOrder, OrderClient, OrderLine, RetryBudget, RetryPolicy
from clients.errors import Overloaded
from protos.orders.v1 import orders_pb2
from tests.support.addresses import loopback
from tests.support.scripted_server import Fail, ScriptedServer

HOST = loopback(30)
FULL = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_delay_s=0.001)
PATIENT = RetryPolicy(attempts_max=10, backoff_s=0.001)


async def test_items_of_a_stream_share_the_budget() -> None:
    """When a full service refuses every item, as many are sent again as the budget allows, and all are answered."""
    budget = RetryBudget(5.0, per_success=0.0, per_second=0.0)
    drafts = [NewOrder(f"customer {n}", "EUR", [OrderLine("sku", 1, 100)]) for n in range(20)]
    async with (
        ScriptedServer(f"{HOST}:0") as server,
        OrderClient(server.address, policy=PATIENT, budget=budget, discover=False) as client,
    ):
        server.script("SubmitOrders", *[FULL] * 200)
        fates = [fate async for fate in client.submit(drafts)]
        assert sorted(fate.position for fate in fates) == list(range(20))
        assert all(isinstance(fate.result, Overloaded) for fate in fates)
        assert len(server.sent(orders_pb2.SubmitOrdersRequest)) == 25
