"""Protobuf messages to domain values and back.

What a caller sends is checked here as far as its form goes (ids, enums, counts that would cost work); every violation
of a request is collected, so that one answer names them all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from protos.orders.v1 import orders_pb2
from server.app.currencies import CURRENCIES
from server.domain import limits
from server.domain.errors import OrderError, Violation, invalid
from server.domain.order import Draft, Line, text_problem, validate_draft
from server.domain.states import State
from shards.contract import Consistency
from shards.keys import parse_uuid7

_UUID7_EXPECTED: Final = "not a UUIDv7 such as 0190b0a2-7c31-7d3f-8a55-2f1e9c6b7d10"

_CONSISTENCY: Final = {0: Consistency.CACHED, 1: Consistency.CACHED, 2: Consistency.STRONG}
_line: Final[Callable[[tuple[str, int, int]], Line]] = partial(tuple.__new__, Line)
"""As ``Line._make``, without a function of Python between."""

_STATES: Final[dict[int, State | None]] = {0: None, **{state.value: state for state in State}}


def order_id(text: str, bad: list[Violation], field: str = "order_id") -> bytes:
    """Returns the 16 bytes of an order id; a malformed one is added to ``bad`` and b"" returned."""
    raw = parse_uuid7(text)
    if raw is None:
        bad.append(Violation(field, _UUID7_EXPECTED if text else f"is missing; {_UUID7_EXPECTED}"))
        return b""
    return raw


def request_id(text: str, bad: list[Violation], *, required: bool = False) -> bytes | None:
    """Returns the 16 bytes of a request id, None for an empty one; a malformed one is added to ``bad``."""
    if not text and not required:
        return None
    return order_id(text, bad, "request_id")


def consistency(number: int, bad: list[Violation]) -> Consistency:
    """Returns the consistency of a wire number; an unknown one is added to ``bad``."""
    known = _CONSISTENCY.get(number)
    if known is None:
        bad.append(Violation("consistency", f"is {number}, which this service does not know"))
        return Consistency.STRONG
    return known


def state_filter(number: int, bad: list[Violation]) -> State | None:
    """Returns the state of a wire number, None for UNSPECIFIED; an unknown one is added to ``bad``."""
    try:
        return _STATES[number]
    except KeyError:
        bad.append(Violation("state", f"is {number}, which this service does not know"))
        return None


def reason(text: str, bad: list[Violation]) -> str:
    """Returns the reason of a transition; a bad one is added to ``bad``."""
    if text and (problem := text_problem(text, limits.REASON_BYTES_MAX, bytes_min=0)):
        bad.append(Violation("reason", problem))
    return text


def expected_version(message: Any, bad: list[Violation]) -> int | None:  # noqa: ANN401  # five messages of one form
    """Returns the expected version of a transition, None when it is not set; one below 1 is added to ``bad``."""
    if not message.HasField("expected_version"):
        return None
    version: int = message.expected_version
    if version < 1:
        bad.append(Violation("expected_version", f"is {version}; versions count from 1"))
    return version


def refuse(bad: list[Violation], validate: Callable[..., None] | None = None, *arguments: object) -> None:
    """Raises INVALID_REQUEST ``OrderError`` when there is any violation, joined by those that ``validate`` raises."""
    if not bad:
        return
    omitted = 0
    if validate is not None:
        try:
            validate(*arguments)
        except OrderError as error:
            bad += error.violations
            omitted = error.violations_omitted
    raise invalid(bad, omitted)


def draft(message: orders_pb2.CreateOrderRequest, *, id_required: bool = False) -> tuple[Draft, bytes | None]:
    """Returns the draft and the request id (16 bytes, or None) that a create asks for.

    Raises INVALID_REQUEST ``OrderError`` with its violations when its form is bad; otherwise the values are yet to be
    validated by who takes the draft. Never converts more than the limits allow, whatever was sent.
    """
    bad: list[Violation] = []
    text = message.request_id
    raw_id = parse_uuid7(text)
    if raw_id is None and (text or id_required):
        order_id(text, bad, "request_id")
    lines, attributes = message.lines, message.attributes
    if len(lines) > limits.LINES_MAX:
        bad.append(Violation("lines", f"{len(lines)} lines, allowed are 1-{limits.LINES_MAX}"))
    labels: tuple[tuple[str, str], ...] = ()
    if len(attributes) > limits.ATTRIBUTES_MAX:
        bad.append(Violation("attributes", f"{len(attributes)} attributes, allowed are {limits.ATTRIBUTES_MAX}"))
    elif attributes:
        labels = tuple(sorted([(key, attributes[key]) for key in attributes]))  # items() costs twice as much
    asked = Draft(
        message.customer_id,
        message.currency_code,
        # a slice is a list, which is gone through in half the time
        tuple([_line((line.sku, line.quantity, line.unit_price_minor)) for line in lines[: limits.LINES_MAX]]),
        labels,
    )
    if bad:
        refuse(bad, validate_draft, asked, CURRENCIES)
    return asked, raw_id
