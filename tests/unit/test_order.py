"""The life of an order as a pure value: states, transitions, versions, validation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.orders.v1 import orders_pb2
from server.app.currencies import CURRENCIES
from server.domain import limits
from server.domain.errors import OrderError, Reason
from server.domain.order import (
    FIELDS_NAMED_MAX,
    Draft,
    Line,
    Order,
    create,
    text_problem,
    transition,
    validate_draft,
)
from server.domain.states import FINAL, TRANSITIONS, State, Verb, allowed_verbs, diagram

ORDER_ID = bytes(16)
GOOD = Draft("customer-1", "EUR", (Line("sku-1", 2, 1_050),), (("color", "red"),))

verbs = st.sampled_from(list(Verb))


def _order(state: State) -> Order:
    """Returns an order that reached ``state`` by the shortest way."""
    order = create(GOOD, ORDER_ID, 1_000)
    ways = {
        State.PENDING: [],
        State.PAID: [Verb.CONFIRM_PAYMENT],
        State.SHIPPED: [Verb.CONFIRM_PAYMENT, Verb.SHIP],
        State.DELIVERED: [Verb.CONFIRM_PAYMENT, Verb.SHIP, Verb.DELIVER],
        State.CANCELLED: [Verb.CANCEL],
        State.REFUNDED: [Verb.CONFIRM_PAYMENT, Verb.REFUND],
    }
    for verb in ways[state]:
        order = transition(order, verb, "", None, 2_000)
    return order


def _refusal(draft: Draft) -> OrderError | None:
    """Returns why a draft is refused, None when it is not."""
    try:
        validate_draft(draft, CURRENCIES)
    except OrderError as error:
        return error
    return None


def _refused(draft: Draft) -> dict[str, str]:
    """Returns the violations of a draft by field."""
    error = _refusal(draft)
    assert error is not None
    assert error.reason is Reason.INVALID_REQUEST
    return {violation.field: violation.description for violation in error.violations}


def test_creation_is_version_1_and_sums_the_lines() -> None:
    """A new order is PENDING at version 1 with the total of its lines."""
    order = create(GOOD._replace(lines=(Line("a", 2, 1_050), Line("b", 3, 7))), ORDER_ID, 1_000)
    assert (order.state, order.version, order.total_minor) == (State.PENDING, 1, 2 * 1_050 + 3 * 7)
    assert order.transitions[0].time_us == 1_000


def test_life_cycle_is_the_documented_one() -> None:
    """Exactly the documented transitions are allowed, and nothing leads out of a final state."""
    arrows = {(s.name, t.name) for sources, t in TRANSITIONS.values() for s in sources}
    assert arrows == {
        ("PENDING", "PAID"),
        ("PAID", "SHIPPED"),
        ("SHIPPED", "DELIVERED"),
        ("PENDING", "CANCELLED"),
        ("PAID", "REFUNDED"),
        ("SHIPPED", "REFUNDED"),
        ("DELIVERED", "REFUNDED"),
    }
    assert {State.CANCELLED, State.REFUNDED} == FINAL


@given(state=st.sampled_from(list(State)), verb=verbs)
def test_every_verb_moves_or_is_refused_with_the_state_and_what_is_allowed(state: State, verb: Verb) -> None:
    """A verb either moves the order one version on, or is refused naming the present state and the allowed methods."""
    order = _order(state)
    if verb in allowed_verbs(state):
        moved = transition(order, verb, "why", None, 5_000)
        assert moved.version == order.version + 1
        assert moved.transitions[:-1] == order.transitions
        assert moved.transitions[-1].reason == "why"
        return
    with pytest.raises(OrderError) as caught:
        transition(order, verb, "", None, 5_000)
    error = caught.value
    assert error.reason is Reason.TRANSITION_NOT_ALLOWED
    assert error.metadata["state"] == state.name
    assert error.metadata["allowed_methods"] == ",".join(v.value for v in allowed_verbs(state))


def test_cancel_on_a_paid_order_names_refund() -> None:
    """Who cancels a paid order is told to refund it, and the other way round."""
    with pytest.raises(OrderError, match="RefundOrder"):
        transition(_order(State.PAID), Verb.CANCEL, "", None, 5_000)
    with pytest.raises(OrderError, match="CancelOrder"):
        transition(_order(State.PENDING), Verb.REFUND, "", None, 5_000)


def test_stale_expected_version_is_told_the_present_one() -> None:
    """A stale expected version is refused with the present version, before the state is looked at."""
    with pytest.raises(OrderError) as caught:
        transition(_order(State.PAID), Verb.CONFIRM_PAYMENT, "", 1, 5_000)
    assert caught.value.reason is Reason.VERSION_MISMATCH
    assert caught.value.metadata["current_version"] == "2"


@given(times=st.lists(st.integers(0, 2**50), min_size=3, max_size=3))
def test_time_never_goes_back_within_an_order(times: list[int]) -> None:
    """Transitions of an order are in order of time whatever the clocks say."""
    order = create(GOOD, ORDER_ID, times[0])
    for verb, now in zip((Verb.CONFIRM_PAYMENT, Verb.SHIP), times[1:], strict=True):
        order = transition(order, verb, "", None, now)
    made = [step.time_us for step in order.transitions]
    assert made == sorted(made)


def test_an_earlier_version_can_be_told_again() -> None:
    """The order as of an earlier version is what it was then, in every part."""
    first = create(GOOD, ORDER_ID, 1_000)
    second = transition(first, Verb.CONFIRM_PAYMENT, "", None, 2_000)
    third = transition(second, Verb.REFUND, "broken", None, 3_000)
    assert third.as_of(1) == first
    assert third.as_of(2) == second
    assert third.as_of(3) == third


def test_every_bad_field_is_named_at_once() -> None:
    """A refusal names all bad fields with their paths."""
    draft = Draft(
        "",
        "EURO",
        (Line("", 0, -1), Line("ok", 1, 1), Line("x" * 65, 1_000_001, 10**12 + 1)),
        (("", "v"), ("k", "v" * 257)),
    )
    assert set(_refused(draft)) == {
        "customer_id",
        "currency_code",
        "lines[0].sku",
        "lines[0].quantity",
        "lines[0].unit_price_minor",
        "lines[2].sku",
        "lines[2].quantity",
        "lines[2].unit_price_minor",
        'attributes[""]',
        'attributes["k"]',
    }


@given(
    lines=st.lists(
        st.builds(
            Line,
            st.sampled_from(["", "ok", "x" * 65, "a\n"]),
            st.sampled_from([-1, 0, 1, 10**6, 10**6 + 1]),
            st.sampled_from([-1, 0, 10**12, 10**12 + 1]),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_the_first_bad_fields_are_named_and_all_counted(lines: list[Line]) -> None:
    """Of the lines' bad fields the first `FIELDS_NAMED_MAX` are named, in order, and the others counted."""
    bad = [
        f"lines[{i}].{field}"
        for i, (sku, quantity, unit_price_minor) in enumerate(lines)
        for field, good in (
            ("sku", sku == "ok"),
            ("quantity", 1 <= quantity <= 10**6),
            ("unit_price_minor", 0 <= unit_price_minor <= 10**12),
        )
        if not good
    ]
    error = _refusal(GOOD._replace(lines=tuple(lines)))
    if not bad:
        assert error is None or [violation.field for violation in error.violations] == ["lines"]  # their total
        return
    assert error is not None
    assert [violation.field for violation in error.violations] == bad[:FIELDS_NAMED_MAX]
    assert len(error.violations) + error.violations_omitted == len(bad)


@pytest.mark.parametrize(
    ("draft", "field"),
    [
        (GOOD._replace(customer_id="é" * 65), "customer_id"),
        (GOOD._replace(customer_id="a\u200b"), "customer_id"),
        (GOOD._replace(customer_id="a\n"), "customer_id"),
        (GOOD._replace(currency_code="eur"), "currency_code"),
        (GOOD._replace(currency_code="XAU"), "currency_code"),
        (GOOD._replace(lines=()), "lines"),
        (GOOD._replace(lines=(Line("a", 1, 1),) * 201), "lines"),
        (GOOD._replace(lines=(Line("a", 1_000_000, 10**12),) * 10), "lines"),
        (GOOD._replace(attributes=tuple((f"k{i:02}", "") for i in range(33))), "attributes"),
    ],
)
def test_each_limit_refuses_what_is_beyond_it(draft: Draft, field: str) -> None:
    """One step beyond a limit is refused under the field's path."""
    assert set(_refused(draft)) == {field}


def test_what_stands_at_the_limits_is_accepted() -> None:
    """The largest values allowed are accepted."""
    validate_draft(
        Draft(
            "é" * 64,
            "JPY",
            (Line("x" * 64, 9, 10**12), *[Line("é" * 32, 1_000_000, 1)] * 199),
            tuple((f"{i:064}", "v" * 256) for i in range(32)),
        ),
        CURRENCIES,
    )


@given(text=st.text(max_size=80), bytes_max=st.integers(1, 64))
def test_text_is_good_exactly_when_printable_and_short(text: str, bytes_max: int) -> None:
    """A text passes exactly when it is printable and its UTF-8 bytes are within the limits."""
    good = 1 <= len(text.encode("utf-8", "surrogatepass")) <= bytes_max and text.isprintable()
    assert (text_problem(text, bytes_max) == "") == good


def test_diagram_shows_every_transition_once() -> None:
    """The diagram has one arrow for every transition of the table."""
    arrows = [line for line in diagram().splitlines() if "-->" in line and "[*]" not in line]
    assert len(arrows) == len(set(arrows)) == sum(len(sources) for sources, _ in TRANSITIONS.values())


def test_reasons_are_those_of_the_wire() -> None:
    """Every reason of the domain stands in the proto's enum and the other way round."""
    wire = {name.removeprefix("ERROR_REASON_") for name in orders_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert {reason.name for reason in Reason} == wire


def test_states_are_those_of_the_wire() -> None:
    """Every state has the wire's name and number."""
    wire = {name.removeprefix("STATE_"): number for name, number in orders_pb2.Order.State.items() if number}
    assert {state.name: state.value for state in State} == wire
    assert limits.LINES_MAX == 200
