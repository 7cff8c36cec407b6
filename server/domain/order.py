"""An order as a value, the drafts it is made from, and the decisions about it.

Values are immutable tuples: cheap to make, compare and encode. All times are Unix microseconds.
"""

from __future__ import annotations

from collections.abc import Container
from functools import lru_cache
from typing import Final, NamedTuple

from server.domain import limits
from server.domain.errors import OrderError, Reason, Violation, invalid
from server.domain.states import FINAL, TRANSITIONS, State, Verb, allowed_verbs

FIELDS_NAMED_MAX: Final = 50
"""Bad fields of an order's lines that are named; the others are counted. The trailers of a call have room for no more.

All those of a batch that is bad throughout would be 300,000, and the event loop would stand still while they are built.
"""


class Line(NamedTuple):
    """One line of an order; the price is in minor units of the order's currency."""

    sku: str
    quantity: int
    unit_price_minor: int


class Draft(NamedTuple):
    """What a caller asks for: an order that does not exist yet. Attributes are sorted by key."""

    customer_id: str
    currency_code: str
    lines: tuple[Line, ...]
    attributes: tuple[tuple[str, str], ...]


class Transition(NamedTuple):
    """One step in an order's life; the i-th one (from 0) made version i + 1."""

    state: State
    time_us: int
    reason: str = ""


class Order(NamedTuple):
    """One order at one version."""

    order_id: bytes
    """16 bytes, a UUIDv7 (see ``shards.keys``)."""
    customer_id: str
    currency_code: str
    lines: tuple[Line, ...]
    attributes: tuple[tuple[str, str], ...]
    total_minor: int
    transitions: tuple[Transition, ...]

    @property
    def version(self) -> int:
        """The version, from 1: the number of transitions, the creation included."""
        return len(self.transitions)

    @property
    def state(self) -> State:
        """The present state."""
        return self.transitions[-1].state

    @property
    def is_final(self) -> bool:
        """Whether nothing can become of the order any more."""
        return self.state in FINAL

    def as_of(self, version: int) -> Order:
        """Returns the order as it was at ``version`` (1 to ``self.version``): everything else never changes."""
        return self if version == self.version else self._replace(transitions=self.transitions[:version])


def create(draft: Draft, order_id: bytes, now_us: int) -> Order:
    """Returns the new order, PENDING, of a draft that ``validate_draft`` has passed."""
    customer_id, currency_code, lines, attributes = draft
    total_minor = 0
    for _, quantity, unit_price_minor in lines:
        total_minor += quantity * unit_price_minor
    return Order(order_id, customer_id, currency_code, lines, attributes, total_minor, _creation(now_us))


@lru_cache(1)
def _creation(now_us: int) -> tuple[Transition, ...]:
    """Returns the life of an order that was just created; the orders of a batch have it in common."""
    return (Transition(State.PENDING, now_us),)


def transition(order: Order, verb: Verb, reason: str, expected_version: int | None, now_us: int) -> Order:
    """Returns the order one version later, or raises ``OrderError``.

    VERSION_MISMATCH comes before TRANSITION_NOT_ALLOWED: who names a version is told first that it is not the present
    one. Time never goes back within an order, whatever the clocks of two workers say.
    """
    state = order.state
    if expected_version is not None and expected_version != order.version:
        raise OrderError(
            Reason.VERSION_MISMATCH,
            f"the order is at version {order.version}, not {expected_version}: read it and decide again",
            metadata={
                "current_version": str(order.version),
                "expected_version": str(expected_version),
                "state": state.name,
            },
        )
    sources, target = TRANSITIONS[verb]
    if state not in sources:
        raise OrderError(
            Reason.TRANSITION_NOT_ALLOWED,
            _why_not(verb, state),
            metadata={
                "state": state.name,
                "version": str(order.version),
                "method": verb.value,
                "allowed_methods": ",".join(v.value for v in allowed_verbs(state)),
            },
        )
    step = Transition(target, max(now_us, order.transitions[-1].time_us), reason)
    return order._replace(transitions=(*order.transitions, step))


def _why_not(verb: Verb, state: State) -> str:
    allowed = allowed_verbs(state)
    if verb is Verb.CANCEL and Verb.REFUND in allowed:
        advice = "money has been taken, so use RefundOrder"
    elif verb is Verb.REFUND and Verb.CANCEL in allowed:
        advice = "nothing has been paid, so use CancelOrder"
    elif allowed:
        advice = "it allows " + ", ".join(v.value for v in allowed)
    else:
        advice = "that state is final"
    return f"{verb.value} is not allowed on an order that is {state.name}: {advice}"


def validate_draft(draft: Draft, currencies: Container[str]) -> None:
    """Raises the INVALID_REQUEST ``OrderError`` that names the bad fields of a draft, of many lines the first."""
    customer_id, currency_code, lines, attributes = draft
    bad: list[Violation] = []
    if problem := text_problem(customer_id, limits.CUSTOMER_ID_BYTES_MAX):
        bad.append(Violation("customer_id", problem))
    if currency_code not in currencies:
        bad.append(Violation("currency_code", "not an ISO 4217 alphabetic code, such as EUR"))
    more = _validate_lines(lines, bad)
    if attributes:
        _validate_attributes(attributes, bad)
    if bad:
        raise invalid(bad, more)


def _validate_lines(lines: tuple[Line, ...], bad: list[Violation]) -> int:
    """Adds what is bad about lines; returns how many more bad fields they have than ``FIELDS_NAMED_MAX``."""
    if not 1 <= len(lines) <= limits.LINES_MAX:
        bad.append(Violation("lines", f"{len(lines)} lines, allowed are 1-{limits.LINES_MAX}"))
    total = 0
    for i, (sku, quantity, unit_price_minor) in enumerate(lines[: limits.LINES_MAX]):
        if (
            text_problem(sku, limits.SKU_BYTES_MAX)
            or not 1 <= quantity <= limits.QUANTITY_MAX
            or not 0 <= unit_price_minor <= limits.UNIT_PRICE_MINOR_MAX
        ):
            return _name_bad_fields(lines[: limits.LINES_MAX], i, bad)
        total += quantity * unit_price_minor
    if total > limits.TOTAL_MINOR_MAX:
        bad.append(Violation("lines", f"their total is {total}, more than int64 holds"))
    return 0


def _name_bad_fields(lines: tuple[Line, ...], first: int, bad: list[Violation]) -> int:
    """Names the bad fields of the lines from the ``first`` bad one on; returns how many more there are."""
    room = FIELDS_NAMED_MAX
    for i in range(first, len(lines)):
        problems = _problems(lines[i])
        if room > 0:
            bad += [Violation(f"lines[{i}].{field}", problem) for field, problem in problems[:room]]
        room -= len(problems)
    return max(0, -room)


def _problems(line: Line) -> list[tuple[str, str]]:
    """Returns the bad fields of a line, and what is wrong with each."""
    sku, quantity, unit_price_minor = line
    problems = []
    if problem := text_problem(sku, limits.SKU_BYTES_MAX):
        problems.append(("sku", problem))
    if not 1 <= quantity <= limits.QUANTITY_MAX:
        problems.append(("quantity", f"is {quantity}, allowed are 1-{limits.QUANTITY_MAX}"))
    if not 0 <= unit_price_minor <= limits.UNIT_PRICE_MINOR_MAX:
        problems.append(("unit_price_minor", f"is {unit_price_minor}, allowed are 0-{limits.UNIT_PRICE_MINOR_MAX}"))
    return problems


def _validate_attributes(attributes: tuple[tuple[str, str], ...], bad: list[Violation]) -> None:
    if len(attributes) > limits.ATTRIBUTES_MAX:
        bad.append(Violation("attributes", f"{len(attributes)} attributes, allowed are {limits.ATTRIBUTES_MAX}"))
    for key, value in attributes[: limits.ATTRIBUTES_MAX]:
        size = _size(key)
        if not 1 <= size <= limits.ATTRIBUTE_KEY_BYTES_MAX:
            bad.append(
                Violation(
                    f"attributes[{quoted(key)}]",
                    f"the key has {size} bytes, allowed are 1-{limits.ATTRIBUTE_KEY_BYTES_MAX}",
                )
            )
        size = _size(value)
        if size > limits.ATTRIBUTE_VALUE_BYTES_MAX:
            bad.append(
                Violation(
                    f"attributes[{quoted(key)}]",
                    f"the value has {size} bytes, at most {limits.ATTRIBUTE_VALUE_BYTES_MAX}",
                )
            )


def _size(text: str) -> int:
    """Returns how many bytes of UTF-8 a text has."""
    return len(text) if text.isascii() else len(text.encode())


def text_problem(text: str, bytes_max: int, *, bytes_min: int = 1) -> str:
    """Returns what is wrong with a text that must be printable and of so many UTF-8 bytes, or "" when it is good.

    Printable is ``str.isprintable``: no control, format, surrogate or unassigned characters, no blank but U+0020.
    """
    size = len(text) if text.isascii() else len(text.encode())
    if not bytes_min <= size <= bytes_max:
        return f"has {size} bytes, allowed are {bytes_min}-{bytes_max}"
    if not text.isprintable():
        return "has characters that are not printable"
    return ""


def quoted(key: str) -> str:
    """Returns a key shortened and quoted for a field path, so that a hostile one cannot flood an error."""
    return '"' + ascii(key[:40])[1:-1].replace('"', '\\"') + ("..." if len(key) > 40 else "") + '"'
