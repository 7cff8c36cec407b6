"""The torture's reading of bytes agrees with protobuf's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.orders.v1 import orders_pb2
from tests.torture.trials import Trials, other_payload
from tests.torture.wire import fields, joined, repeated


@given(st.lists(st.text(max_size=300), max_size=5), st.text(max_size=50))
def test_elements_are_cut_out_as_they_came(names: list[str], token: str) -> None:
    """The elements of a repeated field are the bytes that protobuf wrote for each, beside other fields."""
    orders = [orders_pb2.Order(order_id=name, version=len(name) ** 3) for name in names]
    raw = orders_pb2.ListOrdersResponse(orders=orders, next_page_token=token).SerializeToString()
    assert repeated(raw, 1) == [order.SerializeToString() for order in orders]
    assert dict(fields(raw)).get(2, b"") == token.encode()


@given(st.lists(st.text(max_size=300), max_size=5))
def test_joined_messages_are_a_repeated_field(names: list[str]) -> None:
    """Messages joined as a repeated field decode to that field."""
    requests = [orders_pb2.CreateOrderRequest(customer_id=name) for name in names]
    raw = joined(1, (request.SerializeToString() for request in requests))
    assert list(orders_pb2.BatchCreateOrdersRequest.FromString(raw).requests) == requests


@given(st.integers(1, 60))
def test_cut_bytes_are_refused(cut: int) -> None:
    """Bytes that end within a field are an error, never a shorter value."""
    raw = orders_pb2.CreateOrderRequest(customer_id="x" * 60).SerializeToString()
    with pytest.raises(ValueError, match="cut"):
        list(fields(raw[:cut]))


def test_trials_follow_from_the_seed() -> None:
    """One seed makes the same requests and sends again, but for the times in the request ids."""

    def made(seed: int) -> list[tuple[str, int, str]]:
        trials = Trials(seed, 500)
        groups = iter(trials.group, [])
        return [(t.request.customer_id, t.sends, t.request.request_id[15:]) for group in groups for t in group]

    assert made(1) == made(1) != made(2)
    assert len(made(1)) == 500
    assert {sends for _, sends, _ in made(1)} == {1, 2, 3, 4, 5}


def test_other_payload_keeps_the_identity() -> None:
    """The other payload has the customer and the request id of the first, and asks for something else."""
    trial = Trials(3, 1).group()[0]
    other = orders_pb2.CreateOrderRequest.FromString(other_payload(trial))
    assert (other.customer_id, other.request_id) == (trial.request.customer_id, trial.request.request_id)
    assert other != trial.request
