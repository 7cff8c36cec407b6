"""Messages to values and back, as pure functions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.orders.v1 import orders_pb2 as pb
from server.domain.errors import OrderError, Reason, Violation
from server.domain.order import Draft
from server.rpc import convert
from shards.keys import format_uuid

TEXT = st.text(max_size=20)


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
