"""Orders as the bytes of answers, in one pass over the order and with no message in between.

The wire format is public and fixed (https://protobuf.dev/programming-guides/encoding): a field is its tag, which is
``number * 8 + type`` and here one byte, then a varint, or the length of what follows and that. Written is what the
library's deterministic serialization of a filled message gives, byte for byte (a test compares them): fields by number,
entries of a map in an order of their own, and nothing for a value that is the default of its type.

While it is put together an answer is a text that has one character for each byte (Latin-1). CPython makes such a text
by one f-string a line of the order, where bytes would take a join of many; and a text of the order that is ASCII, as
nearly all are, stands in it as it is, being its own UTF-8.

Orders are within ``server.domain.limits``: ids of things, currencies and quantities are never empty or 0, and what has
at most 127 bytes has a length of one byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from server.domain.order import Order, Transition

_CHARACTER_A_BYTE: Final = "latin-1"

_LIVES_MAX: Final = 64
"""Lives remembered as text: the orders of a batch have one in common. With the longest reasons some 30 KiB."""

_NO_KEY: Final = "\xff"
"""A byte that is in no UTF-8, and above all that are."""

_SEVEN_BITS: Final = 0x7F
_MORE: Final = 0x80
"""Set in each byte of a varint but the last one."""

_ONE_BYTE: Final = 1 << 7
_TWO_BYTES: Final = 1 << 14


def answer(order: Order, *, replayed: bool = False) -> bytes:
    """Returns an order as field 1 and ``replayed`` as field 2: the answer of every call about one order.

    Without ``replayed`` also one element of a list of orders, which is field 1 of all messages that have one.
    """
    text = _order(order)
    flag = "\x10\x01" if replayed else ""
    return f"\x0a{_varint(len(text))}{text}{flag}".encode(_CHARACTER_A_BYTE)


def order_message(order: Order) -> bytes:
    """Returns the message ``orders.v1.Order``."""
    return _order(order).encode(_CHARACTER_A_BYTE)


def element(message: bytes) -> bytes:
    """Returns a message as one element of a list that is field 1."""
    return f"\x0a{_varint(len(message))}".encode(_CHARACTER_A_BYTE) + message


def _order(order: Order) -> str:
    """Returns the fields of an order: 1 and 2, 3 and 4 by its life, 5 to 8, and 9 to 11 by its life."""
    order_id, customer_id, currency_code, lines, attributes, total_minor, transitions = order
    h = order_id.hex()
    state, times = _life(transitions)
    customer = customer_id if customer_id.isascii() else _utf8(customer_id)
    ordered = ""
    for name, quantity, unit_price_minor in lines:
        sku = name if name.isascii() else _utf8(name)
        line = f"\x0a{chr(len(sku))}{sku}\x10{_varint(quantity)}"
        if unit_price_minor:
            line = f"{line}\x18{_varint(unit_price_minor)}"
        ordered = f"{ordered}\x32{chr(len(line))}{line}"
    labels = _labels(attributes) if attributes else ""
    total = f"\x38{_varint(total_minor)}" if total_minor else ""
    return (
        f"\x0a\x24{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}\x12{_varint(len(customer))}{customer}"
        f"{state}\x2a\x03{currency_code}{ordered}{total}{labels}{times}"
    )


def _labels(attributes: Sequence[tuple[str, str]]) -> str:
    """Returns a map (8), given by ascending keys: by the bytes of its keys, but a key behind those that begin with it.

    That order is the library's, and kept since callers were answered it: a replay has the bytes of the first answer.
    """
    labels = ""
    before = _NO_KEY
    for name, text in attributes:
        key = name if name.isascii() else _utf8(name)
        if key.startswith(before):
            return _labels(sorted(attributes, key=_place))
        before = key
        value = text if text.isascii() else _utf8(text)
        label = f"\x0a{chr(len(key))}{key}\x12{_varint(len(value))}{value}"
        labels = f"{labels}\x42{_varint(len(label))}{label}"
    return labels


def _place(attribute: tuple[str, str]) -> str:
    return f"{_utf8(attribute[0])}{_NO_KEY}"


@lru_cache(_LIVES_MAX)
def _life(transitions: tuple[Transition, ...]) -> tuple[str, str]:
    """Returns the fields that tell an order's life: state and version (3, 4); times and transitions (9, 10, 11)."""
    steps = made = moment = ""
    version = state = 0
    for state, time_us, why in transitions:
        version += 1
        moment = _moment(time_us)
        made = made or moment
        step = f"\x08{chr(state)}\x10{chr(version)}\x1a{moment}"
        if why:
            reason = _utf8(why)
            step = f"{step}\x22{_varint(len(reason))}{reason}"
        steps = f"{steps}\x5a{_varint(len(step))}{step}"
    return f"\x18{chr(state)}\x20{chr(version)}", f"\x4a{made}\x52{moment}{steps}"


def _moment(time_us: int) -> str:
    """Returns a ``google.protobuf.Timestamp`` behind its length."""
    seconds, micros = divmod(time_us, 1_000_000)
    moment = f"\x08{_varint(seconds)}" if seconds else ""
    if micros:
        moment = f"{moment}\x10{_varint(micros * 1_000)}"
    return f"{chr(len(moment))}{moment}"


def _utf8(text: str) -> str:
    """Returns the UTF-8 of a text, a character a byte."""
    return text.encode().decode(_CHARACTER_A_BYTE)


def _varint(number: int) -> str:
    """Returns a number from 0 to 2^64 - 1: seven bits a byte, the lowest first."""
    if number < _ONE_BYTE:
        return chr(number)
    if number < _TWO_BYTES:
        return chr(number & _SEVEN_BITS | _MORE) + chr(number >> 7)
    return f"{chr(number & _SEVEN_BITS | _MORE)}{chr(number >> 7 & _SEVEN_BITS | _MORE)}{_varint(number >> 14)}"
