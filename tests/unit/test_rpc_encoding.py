"""Orders as bytes, compared with what the protobuf library makes of messages that are filled field by field."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from protos.orders.v1 import orders_pb2 as pb
from server.domain import limits
from server.domain.order import Line, Order, Transition
from server.domain.states import State, Verb
from server.rpc import encoding
from shards.keys import format_uuid

ONE_ORDER = [pb.CreateOrderResponse, *(getattr(pb, f"{verb.value}Response") for verb in Verb)]

EDGES = [value + more for value in (0, 1 << 7, 1 << 14, 1 << 21, 1 << 28, 1 << 35) for more in (-1, 0, 1)]


def texts(bytes_max: int, *, bytes_min: int = 1) -> st.SearchStrategy[str]:
    """Any text that has so many bytes as UTF-8, often one of the most that it may have."""
    cut = st.text(max_size=bytes_max).map(lambda text: text.encode()[:bytes_max].decode(errors="ignore"))
    longest = st.sampled_from(["x" * bytes_max, "é" * (bytes_max // 2), "\0" * bytes_max])
    return (cut | longest).filter(lambda text: len(text.encode()) >= bytes_min)


def numbers(least: int, most: int) -> st.SearchStrategy[int]:
    """A number of a range, often one where its varint becomes a byte longer."""
    return st.sampled_from([least, most, *(edge for edge in EDGES if least <= edge <= most)]) | st.integers(least, most)


LINES = st.builds(
    Line, texts(limits.SKU_BYTES_MAX), numbers(1, limits.QUANTITY_MAX), numbers(0, limits.UNIT_PRICE_MINOR_MAX)
)
KEYS = texts(limits.ATTRIBUTE_KEY_BYTES_MAX) | st.text("ab\xffé\U0010ffff", min_size=1, max_size=4)  # often begin alike
ATTRIBUTES = st.dictionaries(KEYS, texts(limits.ATTRIBUTE_VALUE_BYTES_MAX, bytes_min=0), max_size=5)
TRANSITIONS = st.builds(
    Transition, st.sampled_from(State), numbers(0, 2**52), texts(limits.REASON_BYTES_MAX, bytes_min=0)
)
ORDERS = st.builds(
    Order,
    st.binary(min_size=16, max_size=16),
    texts(limits.CUSTOMER_ID_BYTES_MAX),
    st.sampled_from(["EUR", "USD"]),
    st.lists(LINES, min_size=1, max_size=5).map(tuple),
    ATTRIBUTES.map(lambda labels: tuple(sorted(labels.items()))),
    numbers(0, limits.TOTAL_MINOR_MAX),
    st.lists(TRANSITIONS, min_size=1, max_size=5).map(tuple),
)


def message_of(order: Order) -> pb.Order:
    """The message of an order, by the library alone."""
    first, last = order.transitions[0], order.transitions[-1]
    return pb.Order(
        order_id=format_uuid(order.order_id),
        customer_id=order.customer_id,
        state=last.state.value,  # type: ignore[arg-type]  # the numbers of State are those of the wire
        version=len(order.transitions),
        currency_code=order.currency_code,
        lines=[pb.OrderLine(**line._asdict()) for line in order.lines],
        total_minor=order.total_minor,
        attributes=dict(order.attributes),
        create_time=moment_of(first.time_us),
        update_time=moment_of(last.time_us),
        transitions=[
            pb.Transition(
                state=step.state.value,  # type: ignore[arg-type]  # as above
                version=i + 1,
                time=moment_of(step.time_us),
                reason=step.reason,
            )
            for i, step in enumerate(order.transitions)
        ],
    )


def moment_of(time_us: int) -> Timestamp:
    """The timestamp of a time."""
    moment = Timestamp()
    moment.FromMicroseconds(time_us)
    return moment


def bytes_of(message: Any) -> bytes:  # noqa: ANN401  # any message
    """What the library sends of a message."""
    return bytes(message.SerializeToString(deterministic=True))


def test_no_field_is_left_out() -> None:
    """An order that says all it can fills every field there is: one that is added must be written here as well."""
    order = Order(
        b"\x01" * 16, "ada", "EUR", (Line("tea", 1, 2),), (("a", "b"),), 2, (Transition(State.PENDING, 1, "why"),)
    )
    message = message_of(order)
    for part in (message, message.lines[0], message.transitions[0]):
        assert {field.name for field, _ in part.ListFields()} == {field.name for field in part.DESCRIPTOR.fields}


@given(ORDERS)
def test_an_order_has_the_bytes_of_its_message(order: Order) -> None:
    """Whatever an order says within the limits, its bytes are those that the library gives to its message."""
    assert encoding.order_message(order) == bytes_of(message_of(order))


@given(st.sampled_from(ONE_ORDER), ORDERS, st.booleans())
def test_an_answer_has_the_bytes_of_its_message(kind: type[Any], order: Order, replayed: bool) -> None:
    """Every method that answers one order, and whether it is a replay, answers the bytes of its own message."""
    assert encoding.answer(order, replayed=replayed) == bytes_of(kind(order=message_of(order), replayed=replayed))


@given(ORDERS)
def test_a_read_answers_an_order_alone(order: Order) -> None:
    """GetOrder and WatchOrder answer the bytes of their messages, which have nothing but the order."""
    for kind in (pb.GetOrderResponse, pb.WatchOrderResponse):
        assert encoding.answer(order) == bytes_of(kind(order=message_of(order)))


@given(st.lists(ORDERS, max_size=3))
def test_orders_in_a_row_are_a_list(orders: list[Order]) -> None:
    """Answers one after the other are a list of orders, and answers as elements the results of a batch."""
    messages = [message_of(order) for order in orders]
    answers = [encoding.answer(order) for order in orders]
    assert b"".join(answers) == bytes_of(pb.BatchGetOrdersResponse(orders=messages))
    assert b"".join(answers) == bytes_of(pb.ListOrdersResponse(orders=messages))
    results = [pb.BatchCreateOrdersResponse.Result(order=message) for message in messages]
    assert b"".join(map(encoding.element, answers)) == bytes_of(pb.BatchCreateOrdersResponse(results=results))


def test_every_field_of_an_order_is_compared() -> None:
    """An order that has everything fills each field of its messages: one that is new in them is missing here."""
    steps = (Transition(State.PENDING, 1_000_001, "why"),)
    order = message_of(Order(bytes(16), "zoë", "EUR", (Line("tea", 1, 1),), (("a", "b"),), 1, steps))
    for message in (order, order.lines[0], order.transitions[0], order.create_time):
        assert [field.name for field, _ in message.ListFields()] == [
            field.name for _, field in sorted(message.DESCRIPTOR.fields_by_number.items())
        ]
