"""Messages to values and back, as pure functions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.orders.v1 import orders_pb2 as pb
from server.domain import limits
from server.domain.errors import OrderError, Reason, Violation
from server.domain.order import Draft, Line, Order, Transition
from server.domain.states import State
from server.rpc import convert
from shards.keys import format_uuid

TEXT = st.text(max_size=20)
LINES = st.lists(st.builds(Line, TEXT, st.integers(1, 10**6), st.integers(0, 10**12)), min_size=1, max_size=5)
ATTRIBUTES = st.dictionaries(TEXT, TEXT, max_size=5).map(lambda labels: tuple(sorted(labels.items())))
TRANSITIONS = st.lists(
    st.builds(Transition, st.sampled_from(State), st.integers(0, 2**52), TEXT), min_size=1, max_size=5
)
ORDERS = st.builds(
    Order,
    st.binary(min_size=16, max_size=16),
    TEXT,
    st.just("EUR"),
    LINES.map(tuple),
    ATTRIBUTES,
    st.integers(0, limits.TOTAL_MINOR_MAX),
    TRANSITIONS.map(tuple),
)


def order_of(message: pb.Order) -> Order:
    """The inverse of ``fill_order``, written down on its own."""
    return Order(
        bytes.fromhex(message.order_id.replace("-", "")),
        message.customer_id,
        message.currency_code,
        tuple(Line(line.sku, line.quantity, line.unit_price_minor) for line in message.lines),
        tuple(sorted(message.attributes.items())),
        message.total_minor,
        tuple(Transition(State(t.state), t.time.ToMicroseconds(), t.reason) for t in message.transitions),
    )


@given(ORDERS)
def test_an_order_loses_nothing_on_the_wire(order: Order) -> None:
    """A filled message says all of the order, and what follows from it agrees."""
    message = pb.Order()
    convert.fill_order(message, order)
    assert order_of(message) == order
    assert (int(message.state), message.version) == (order.state.value, order.version)
    assert [step.version for step in message.transitions] == list(range(1, order.version + 1))
    assert message.create_time == message.transitions[0].time
    assert message.update_time == message.transitions[-1].time


@given(st.dictionaries(TEXT, TEXT, max_size=20), st.randoms())
def test_attributes_have_one_order(labels: dict[str, str], random: Any) -> None:  # noqa: ANN401  # a Random
    """However a caller's library orders a map, the draft is the same, and so is its digest."""
    shuffled = list(labels.items())
    random.shuffle(shuffled)
    drafts = []
    for items in (labels.items(), shuffled):
        request = pb.CreateOrderRequest(customer_id="c", currency_code="EUR")
        for key, value in items:
            request.attributes[key] = value
        drafts.append(convert.draft(request)[0])
    assert drafts[0] == drafts[1] == Draft("c", "EUR", (), tuple(sorted(labels.items())))


def test_a_request_id_may_be_missing_unless_it_names_the_answer() -> None:
    """An empty request id is none, and a violation where it is required."""
    request = pb.CreateOrderRequest(customer_id="c", currency_code="EUR", lines=[pb.OrderLine(sku="s", quantity=1)])
    assert convert.draft(request)[1] is None
    with pytest.raises(OrderError) as caught:
        convert.draft(request, id_required=True)
    assert [violation.field for violation in caught.value.violations] == ["request_id"]


@given(st.text(max_size=40))
def test_ids_are_uuids_or_violations(text: str) -> None:
    """A text that is no UUIDv7 becomes a violation of its field and no id."""
    bad: list[Violation] = []
    raw = convert.order_id(text, bad, "order_ids[3]")
    if raw:
        assert format_uuid(raw) == text.lower()
        assert not bad
    else:
        assert [violation.field for violation in bad] == ["order_ids[3]"]


def test_nothing_is_refused_without_a_violation() -> None:
    """Validation is joined only when there is a violation already, and then adds its own."""
    seen = []

    def validate(what: str) -> None:
        seen.append(what)
        raise OrderError(Reason.INVALID_REQUEST, "bad", violations=[Violation("b", "bad")])

    convert.refuse([], validate, "x")
    assert not seen
    with pytest.raises(OrderError) as caught:
        convert.refuse([Violation("a", "bad")], validate, "x")
    assert [violation.field for violation in caught.value.violations] == ["a", "b"]
