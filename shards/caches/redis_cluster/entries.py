"""What is kept in Redis under an order's key: how it is called and how it is written. Pure.

An entry carries its version first, so that a script compares versions without knowing rows. Times in it are Unix
milliseconds of the worker that read the row: workers on several machines agree on them as well as their clocks do.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from shards.contract import MARK_BYTES, Row
from shards.keys import Key

_HEADER: Final = struct.Struct(">IQQ")  # version, when the read began, when it expires; fill.lua knows this
_CUSTOMER_BYTES: Final = struct.Struct(">H")
_ROW_AT: Final = _HEADER.size + _CUSTOMER_BYTES.size
_CUSTOMER_BYTES_MAX: Final = 0xFFFF

_FORMAT: Final = "1"
"""Part of every key: code that writes entries of another shape never meets these."""


class Entry(NamedTuple):
    """A row as it was remembered."""

    row: Row
    began_ms: int
    """When the read that found it began: the version was current then, or became so during that read."""
    expires_ms: int
    """When it may no longer be answered."""


def key_text(prefix: str, key: Key) -> bytes:
    """Returns the key of an order. What stands in braces decides where Redis Cluster puts it: a slot stays together."""
    return f"{prefix}{_FORMAT}:{{{key.slot}}}:{key.gen}:{key.order_id.hex()}".encode()


def encode(row: Row, began_ms: int, expires_ms: int, bytes_max: int) -> bytes:
    """Returns the entry of a row, or the tombstone of its version when that would be longer than ``bytes_max``."""
    customer = row.customer.encode()
    size = _ROW_AT + len(customer) + len(row.marks) + len(row.body)
    if size > bytes_max or len(customer) > _CUSTOMER_BYTES_MAX:
        return _HEADER.pack(row.version, began_ms, expires_ms)
    head = _HEADER.pack(row.version, began_ms, expires_ms) + _CUSTOMER_BYTES.pack(len(customer))
    return b"".join((head, row.marks, customer, row.body))


def is_tombstone(entry: bytes) -> bool:
    """Tells whether an entry says only that older versions are not to be answered."""
    return len(entry) == _HEADER.size


def decode(key: Key, entry: bytes) -> Entry | None:
    """Returns what was encoded under a key; None for a tombstone. Raises ``ValueError`` for what is no entry."""
    if is_tombstone(entry):
        return None
    if len(entry) < _ROW_AT:
        raise ValueError(f"an entry of {len(entry)} bytes")
    version, began_ms, expires_ms = _HEADER.unpack_from(entry)
    (customer_bytes,) = _CUSTOMER_BYTES.unpack_from(entry, _HEADER.size)
    customer_at = _ROW_AT + version * MARK_BYTES
    body_at = customer_at + customer_bytes
    if version < 1 or body_at > len(entry):
        raise ValueError(f"an entry of {len(entry)} bytes that says it has {body_at} and a body")
    # UnicodeDecodeError is a ValueError
    row = Row(key, entry[customer_at:body_at].decode(), entry[_ROW_AT:customer_at], entry[body_at:])
    return Entry(row, began_ms, expires_ms)
