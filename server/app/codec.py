"""Orders as the bytes that a store keeps, and the digests that tell one payload from another.

The encoding is MessagePack arrays behind one byte of format version. Fields are only ever appended, each with a
default, so that an older body stays readable.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from server.app.failures import read_failure_of
from server.domain.errors import OrderError, Reason
from server.domain.order import Draft, Line, Order, Transition
from server.domain.states import Verb
from shards.contract import Row, StoreError
from shards.keys import format_uuid

_FORMAT: Final = b"\x01"
_DIGEST_BYTES: Final = 16


class _Body(NamedTuple):
    """All of an order that the row's own columns do not say."""

    currency_code: str
    lines: tuple[Line, ...]
    attributes: tuple[tuple[str, str], ...]
    total_minor: int
    transitions: tuple[Transition, ...]


_CREATE: Final = blake2b(digest_size=_DIGEST_BYTES, person=b"crest.create")
_TRANSIT: Final = blake2b(digest_size=_DIGEST_BYTES, person=b"crest.transit")
"""Digests of nothing yet, to be copied: that takes half the time of beginning one."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Body).decode


def encode(order: Order) -> bytes:
    """Returns the body that a row keeps of an order."""
    return _FORMAT + _encode(order[2:])


def decode(row: Row) -> Order:
    """Returns the order that a row keeps. Raises STORE_CORRUPT ``OrderError`` for a body this code cannot read."""
    if not row.body.startswith(_FORMAT):
        raise _unreadable(row, f"has format {row.body[:1].hex()!r}, known is {_FORMAT.hex()!r}")
    try:
        return Order(row.key.order_id, row.customer, *_decode(memoryview(row.body)[1:]))
    except (ValueError, msgspec.MsgspecError) as error:
        raise _unreadable(row, "is damaged") from error


def decode_found(answer: Row | StoreError | None) -> Order | OrderError | None:
    """Returns what a read of many has found of one: its order, None where there is none, or why it is not known."""
    if isinstance(answer, StoreError):
        return read_failure_of(answer)
    try:
        return None if answer is None else decode(answer)
    except OrderError as error:
        return error


def _unreadable(row: Row, why: str) -> OrderError:
    text = format_uuid(row.key.order_id)
    return OrderError(Reason.STORE_CORRUPT, f"what is stored of order {text} {why}", metadata={"order_id": text})


def draft_digest(draft: Draft) -> bytes:
    """Returns 16 bytes that differ for any two drafts that differ."""
    digest = _CREATE.copy()
    digest.update(_encode(draft))
    return digest.digest()


def transition_digest(verb: Verb, expected_version: int | None, reason: str) -> bytes:
    """Returns 16 bytes that differ for any two transition requests that differ."""
    digest = _TRANSIT.copy()
    digest.update(_encode((verb.value, expected_version, reason)))
    return digest.digest()
