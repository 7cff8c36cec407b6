"""OrderService as a stock client sees it, on both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos.orders.v1 import orders_pb2 as pb
from server.domain import limits
from server.domain.states import FINAL, TRANSITIONS, State, Verb
from server.transport import Kind
from shards.keys import format_uuid, order_id_of, parse_uuid7
from tests.support.failures import Failed, failure
from tests.support.rpc_worker import RpcWorker, a_create, a_large_create, new_id, prepared, renewed, rpc_worker
from tests.support.storage import SETUPS, storage

REQUESTS: dict[Verb, Any] = {verb: getattr(pb, f"{verb.value}Request") for verb in Verb}

PATH_TO: dict[State, tuple[Verb, ...]] = {
    State.PENDING: (),
    State.PAID: (Verb.CONFIRM_PAYMENT,),
    State.SHIPPED: (Verb.CONFIRM_PAYMENT, Verb.SHIP),
    State.DELIVERED: (Verb.CONFIRM_PAYMENT, Verb.SHIP, Verb.DELIVER),
    State.CANCELLED: (Verb.CANCEL,),
    State.REFUNDED: (Verb.CONFIRM_PAYMENT, Verb.REFUND),
}


@pytest.fixture(params=SETUPS, ids="-".join)
async def worker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RpcWorker]:
    """A worker on each transport, and on each storage."""
    kind, name = request.param
    with storage(name).prepared(tmp_path / "data") as settings:
        async with rpc_worker(Kind(kind), settings) as worker:
            yield worker


@pytest.fixture
def customer() -> str:
    """A customer without orders."""
    return f"customer-{new_id()}"


async def move(worker: RpcWorker, verb: Verb, order_id: str, **fields: Any) -> Any:  # noqa: ANN401  # one of five
    """Calls the method of a verb."""
    return await getattr(worker.orders, verb.value)(REQUESTS[verb](order_id=order_id, **fields))


async def order_in(worker: RpcWorker, state: State, customer: str = "customer-1") -> pb.Order:
    """Returns a new order that has been brought into a state."""
    order = (await worker.orders.CreateOrder(a_create(customer))).order
    for verb in PATH_TO[state]:
        order = (await move(worker, verb, order.order_id, request_id=new_id())).order
    return order


async def test_a_created_order_says_all_that_was_asked_for(worker: RpcWorker) -> None:
    """A create answers the complete order at version 1, under the id that follows from customer and request id."""
    request = a_create("Zoë")
    answer = await worker.orders.CreateOrder(request)
    order = answer.order
    assert not answer.replayed
    assert order.order_id == format_uuid(order_id_of("Zoë", parse_uuid7(request.request_id) or b""))
    assert (order.customer_id, order.currency_code) == (request.customer_id, request.currency_code)
    assert (order.state, order.version, order.total_minor) == (pb.Order.STATE_PENDING, 1, 2500)
    assert list(order.lines) == list(request.lines)
    assert order.attributes == request.attributes
    (created,) = order.transitions
    assert (created.state, created.version, created.reason) == (pb.Order.STATE_PENDING, 1, "")
    assert created.time == order.create_time == order.update_time
    assert (await worker.orders.GetOrder(pb.GetOrderRequest(order_id=order.order_id))).order == order


async def test_replays_are_byte_identical_whatever_has_become_of_the_order(worker: RpcWorker) -> None:
    """A request that comes again is answered with the very bytes of its first answer, later transitions or not."""
    call = worker.raw("orders.v1.OrderService/CreateOrder")
    request = a_create(attributes={f"key-{i}": "v" for i in range(20)})
    first = pb.CreateOrderResponse.FromString(await call(request.SerializeToString()))
    order_id = first.order.order_id
    paid_by = {"request_id": new_id()}
    paid = await move(worker, Verb.CONFIRM_PAYMENT, order_id, **paid_by)
    await move(worker, Verb.SHIP, order_id, request_id=new_id())

    again = await call(request.SerializeToString())
    first.replayed = True
    assert again == first.SerializeToString(deterministic=True)
    repaid = await move(worker, Verb.CONFIRM_PAYMENT, order_id, **paid_by)
    assert repaid.replayed
    assert repaid.order.SerializeToString(deterministic=True) == paid.order.SerializeToString(deterministic=True)


async def test_a_request_id_with_another_payload_is_refused(worker: RpcWorker) -> None:
    """The same customer and request id with another payload is ALREADY_EXISTS and names the first order."""
    request = a_create()
    order = (await worker.orders.CreateOrder(request)).order
    request.lines[0].quantity += 1
    refused = await failure(worker.orders.CreateOrder(request))
    assert (refused.code, refused.info.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert refused.info.metadata["order_id"] == order.order_id


async def test_without_a_request_id_every_call_is_a_new_order(worker: RpcWorker) -> None:
    """The server mints a request id when the caller gives none."""
    request = a_create(request_id="")
    first, second = [await worker.orders.CreateOrder(request) for _ in range(2)]
    assert first.order.order_id != second.order.order_id
    assert [first.replayed, second.replayed] == [False, False]


@pytest.mark.parametrize("verb", list(Verb), ids=lambda verb: verb.value)
@pytest.mark.parametrize("state", list(State), ids=lambda state: state.name)
async def test_the_life_cycle_over_the_wire(tmp_path: Path, state: State, verb: Verb) -> None:
    """Each verb does on each state what the table of transitions says, and a refusal says what is allowed."""
    with prepared(tmp_path / "data") as settings:
        async with rpc_worker(Kind.NATIVE, settings) as worker:
            before = await order_in(worker, state)
            sources, target = TRANSITIONS[verb]
            if state in sources:
                after = (await move(worker, verb, before.order_id, request_id=new_id())).order
                assert (after.state, after.version) == (target.value, before.version + 1)
                assert len(after.transitions) == after.version
                return
            refused = await failure(move(worker, verb, before.order_id, request_id=new_id()))
            assert (refused.code, refused.info.reason) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "TRANSITION_NOT_ALLOWED",
            )
            assert refused.info.metadata["state"] == state.name
            assert (refused.info.metadata["allowed_methods"] == "") == (state in FINAL)


async def test_cancelling_a_paid_order_names_the_refund(worker: RpcWorker) -> None:
    """CancelOrder on a PAID order is refused and tells of RefundOrder."""
    order = await order_in(worker, State.PAID)
    refused = await failure(move(worker, Verb.CANCEL, order.order_id, request_id=new_id(), reason="changed my mind"))
    assert "RefundOrder" in refused.message
    assert "RefundOrder" in refused.info.metadata["allowed_methods"].split(",")


async def test_a_stale_expected_version_is_aborted(worker: RpcWorker) -> None:
    """A transition that expects another version than the present one is ABORTED and told the present one."""
    order = await order_in(worker, State.PAID)
    refused = await failure(move(worker, Verb.SHIP, order.order_id, request_id=new_id(), expected_version=1))
    assert (refused.code, refused.info.reason) == (grpc.StatusCode.ABORTED, "VERSION_MISMATCH")
    assert refused.info.metadata["current_version"] == "2"
    moved = await move(worker, Verb.SHIP, order.order_id, request_id=new_id(), expected_version=2)
    assert moved.order.version == 3


async def test_a_reason_is_kept_with_its_transition(worker: RpcWorker) -> None:
    """The reason of a cancellation stands in the order's transitions."""
    order = await order_in(worker, State.PENDING)
    cancelled = await move(worker, Verb.CANCEL, order.order_id, request_id=new_id(), reason="zu spät")
    assert [step.reason for step in cancelled.order.transitions] == ["", "zu spät"]


async def test_all_bad_fields_of_a_request_are_named_at_once(worker: RpcWorker) -> None:
    """INVALID_ARGUMENT names every bad field, those found by form and those found by value."""
    refused = await failure(
        worker.orders.CreateOrder(
            a_create(
                "",
                request_id="no-uuid",
                currency_code="eur",
                lines=[pb.OrderLine(sku="", quantity=0, unit_price_minor=-1)] * 2,
                attributes={"": "v"},
            )
        )
    )
    assert (refused.code, refused.info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert set(refused.fields) == {
        "request_id",
        "customer_id",
        "currency_code",
        'attributes[""]',
        *(f"lines[{i}].{field}" for i in range(2) for field in ("sku", "quantity", "unit_price_minor")),
    }
    refused = await failure(
        move(worker, Verb.REFUND, "x", request_id="y", expected_version=0, reason="z" * (limits.REASON_BYTES_MAX + 1))
    )
    assert set(refused.fields) == {"order_id", "request_id", "expected_version", "reason"}
    refused = await failure(worker.orders.GetOrder(pb.GetOrderRequest(min_version=-1, consistency=9)))  # type: ignore[arg-type]  # an enum value of tomorrow
    assert set(refused.fields) == {"order_id", "min_version", "consistency"}
    refused = await failure(worker.orders.ListOrders(pb.ListOrdersRequest(state=99, page_size=-1)))  # type: ignore[arg-type]  # as above
    assert set(refused.fields) == {"customer_id", "state", "page_size"}


async def test_more_violations_than_trailers_hold_are_counted(worker: RpcWorker) -> None:
    """A request with hundreds of bad fields gets the first of them and the number of the others, in small trailers."""
    lines = [pb.OrderLine(sku="x" * 65, quantity=-1, unit_price_minor=-1)] * limits.LINES_MAX
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await worker.orders.CreateOrder(a_create(lines=lines))
    refused = Failed(caught.value)
    assert len(refused.fields) + int(refused.info.metadata["violations_omitted"]) == 3 * limits.LINES_MAX
    trailers = sum(len(key) + len(value) for key, value in caught.value.trailing_metadata() or ())
    assert trailers * 4 / 3 + len(refused.message) < 6 * 1024


@pytest.mark.parametrize(
    ("fields", "counted"),
    [
        ({"lines": [pb.OrderLine()] * 100_000}, "100000 lines"),
        ({"attributes": {str(i): "" for i in range(50_000)}}, "50000"),
    ],
    ids=["lines", "attributes"],
)
async def test_floods_of_small_parts_are_refused(worker: RpcWorker, fields: dict[str, Any], counted: str) -> None:
    """A request with far too many lines or attributes is refused by their number."""
    refused = await failure(worker.orders.CreateOrder(a_create(**fields)))
    assert refused.info.reason == "INVALID_REQUEST"
    assert any(counted in violation.description for violation in refused.bad.field_violations)


async def test_a_missing_order_is_not_found(worker: RpcWorker) -> None:
    """Reads, transitions and watches of an order that does not exist are NOT_FOUND."""
    missing = new_id()
    for call in (
        worker.orders.GetOrder(pb.GetOrderRequest(order_id=missing)),
        worker.orders.GetOrder(pb.GetOrderRequest(order_id=missing, consistency=pb.CONSISTENCY_STRONG)),
        move(worker, Verb.SHIP, missing, request_id=new_id()),
        worker.orders.WatchOrder(pb.WatchOrderRequest(order_id=missing)).__aiter__().__anext__(),
    ):
        refused = await failure(call)
        assert (refused.code, refused.info.reason) == (grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND")
        assert refused.info.metadata["order_id"] == missing


async def test_a_version_that_does_not_exist_is_a_failed_precondition(worker: RpcWorker) -> None:
    """A read that asks for a later version than the present one is told the present one."""
    order = await order_in(worker, State.PAID)
    request = pb.GetOrderRequest(order_id=order.order_id, min_version=2)
    assert (await worker.orders.GetOrder(request)).order.version == 2
    request.min_version = 3
    refused = await failure(worker.orders.GetOrder(request))
    assert (refused.code, refused.info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MIN_VERSION_NOT_REACHED")
    assert refused.info.metadata["current_version"] == "2"


async def test_pages_list_every_order_once_newest_first(worker: RpcWorker, customer: str) -> None:
    """Following the page tokens lists all of a customer's orders by descending id, whatever the size of the pages."""
    created = [(await worker.orders.CreateOrder(a_create(customer))).order.order_id for _ in range(7)]
    await worker.orders.CreateOrder(a_create("customer-2"))
    request = pb.ListOrdersRequest(customer_id=customer, page_size=3)
    sizes, listed = [], []
    while True:
        page = await worker.orders.ListOrders(request)
        sizes.append(len(page.orders))
        listed += [order.order_id for order in page.orders]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert sizes == [3, 3, 1]
    assert listed == sorted(created, reverse=True)


async def test_pages_end_early_at_the_size_of_a_call(worker: RpcWorker, customer: str) -> None:
    """A page of large orders ends before 3 MiB and goes on with its token."""
    batch = pb.BatchCreateOrdersRequest(requests=[a_large_create(customer) for _ in range(60)])
    for _ in range(2):
        await worker.orders.BatchCreateOrders(renewed(batch))
    request = pb.ListOrdersRequest(customer_id=customer, page_size=1000)
    first = await worker.orders.ListOrders(request)
    assert first.ByteSize() <= limits.CALL_BYTES_MAX
    request.page_token = first.next_page_token
    second = await worker.orders.ListOrders(request)
    assert len(first.orders) + len(second.orders) == 120
    assert not second.next_page_token


async def test_page_tokens_belong_to_their_list(worker: RpcWorker, customer: str) -> None:
    """A token is refused when damaged, with another customer, and with another filter."""
    for _ in range(2):
        await worker.orders.CreateOrder(a_create(customer))
    page = await worker.orders.ListOrders(pb.ListOrdersRequest(customer_id=customer, page_size=1))
    token = page.next_page_token
    assert token
    for request in (
        pb.ListOrdersRequest(customer_id=customer, page_token=token[:-1]),
        pb.ListOrdersRequest(customer_id=customer, page_token="ö" * 40),
        pb.ListOrdersRequest(customer_id="customer-2", page_token=token),
        pb.ListOrdersRequest(customer_id=customer, page_token=token, state=pb.Order.STATE_PAID),
    ):
        refused = await failure(worker.orders.ListOrders(request))
        assert (refused.code, refused.info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


async def test_a_filter_lists_orders_of_one_state(worker: RpcWorker, customer: str) -> None:
    """ListOrders with a state answers the orders that are in it."""
    paid = await order_in(worker, State.PAID, customer)
    await order_in(worker, State.PENDING, customer)
    page = await worker.orders.ListOrders(pb.ListOrdersRequest(customer_id=customer, state=pb.Order.STATE_PAID))
    assert [order.order_id for order in page.orders] == [paid.order_id]


async def test_ids_ahead_and_expired_tell_the_servers_time(worker: RpcWorker) -> None:
    """A request id of the far future or the far past is refused with the server's time."""
    for time_ms, reason in ((1 << 47, "REQUEST_ID_AHEAD"), (1_600_000_000_000, "REQUEST_ID_EXPIRED")):
        far = f"{time_ms:012x}"
        refused = await failure(
            worker.orders.CreateOrder(a_create(request_id=f"{far[:8]}-{far[8:]}-7abc-8abc-{'1' * 12}"))
        )
        assert (refused.code, refused.info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
        assert refused.info.metadata["server_time"].endswith("Z")


async def test_concurrent_tries_of_one_request_make_one_order(worker: RpcWorker) -> None:
    """Twenty tries of one request at once give one order, and one of them made it."""
    request = a_create()
    answers = await asyncio.gather(*(worker.orders.CreateOrder(request) for _ in range(20)))
    assert len({answer.order.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 19
