"""The status of a failed call as a pure function of its error."""

from __future__ import annotations

import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import OrderError, Reason, Violation
from server.rpc.errors import (
    DETAILS_KEY,
    MESSAGE_CHARS_MAX,
    OMITTED_KEY,
    RULES,
    STATUS_BYTES_MAX,
    item_error,
    refusal_of,
)

VIOLATIONS = st.lists(st.builds(Violation, st.text(max_size=60), st.text(max_size=120)), min_size=1, max_size=400).map(
    tuple
)


def details(error: OrderError) -> tuple[status_pb2.Status, error_details_pb2.ErrorInfo, error_details_pb2.BadRequest]:
    """Unpacks what the trailers of an error hold."""
    ((key, raw),) = refusal_of(error).trailers
    assert key == DETAILS_KEY
    assert isinstance(raw, bytes)
    status = status_pb2.Status.FromString(raw)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        if not detail.Unpack(info):
            detail.Unpack(bad)
    return status, info, bad


@given(VIOLATIONS, st.text(max_size=2 * MESSAGE_CHARS_MAX))
def test_a_status_stays_small_and_loses_no_count(violations: tuple[Violation, ...], message: str) -> None:
    """Whatever is wrong, a status stays within its bytes, names the first violations, and counts the rest."""
    error = OrderError(Reason.INVALID_REQUEST, message, violations=violations)
    status, info, bad = details(error)
    assert status.ByteSize() <= STATUS_BYTES_MAX
    named = [(v.field, v.description) for v in bad.field_violations]
    assert named == list(violations[: len(named)])
    assert named
    assert len(named) + int(info.metadata.get(OMITTED_KEY, "0")) == len(violations)
    assert len(status.message) <= MESSAGE_CHARS_MAX


@given(VIOLATIONS, st.one_of(st.none(), st.integers(512, 4096)))
def test_the_error_of_an_item_is_cut_only_when_asked(violations: tuple[Violation, ...], bytes_max: int | None) -> None:
    """The error of an item names every violation, or what a given number of bytes holds and the number of the rest."""
    message = item_error(OrderError(Reason.INVALID_REQUEST, "bad", violations=violations), bytes_max)
    omitted = int(message.metadata.get(OMITTED_KEY, "0"))
    assert len(message.field_violations) + omitted == len(violations)
    if bytes_max is None:
        assert not omitted
    else:
        assert message.ByteSize() <= bytes_max


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.name)
def test_a_call_and_an_item_say_the_same(reason: Reason) -> None:
    """The error of an item carries code, reason, metadata and hint of the status that a call would end with."""
    error = OrderError(reason, "a text", metadata={"state": "PAID"}, retry_after_s=None)
    status, info, _ = details(error)
    message = item_error(error)
    assert (message.code, message.message) == (status.code, status.message)
    assert (message.reason, message.metadata) == (info.reason, info.metadata)
    hints = [detail for detail in status.details if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)]
    assert bool(hints) == message.HasField("retry_delay") == (RULES[reason].retry == "yes")


def test_the_hint_of_an_error_goes_before_the_rules() -> None:
    """An error that brings a hint of its own is answered with that one."""
    message = item_error(OrderError(Reason.QUEUE_FULL, "full", retry_after_s=1.25))
    assert (message.retry_delay.seconds, message.retry_delay.nanos) == (1, 250_000_000)
