"""Addresses: the slot and tag of a customer, and the order id that carries them.

Pure functions. The formulas are public (``protos/topology/v1/topology.proto`` repeats them with test vectors) and can
never change: ids made by them are stored by callers.
"""

from __future__ import annotations

import secrets
import struct
import time
import uuid
from hashlib import blake2b
from typing import Final, NamedTuple

import xxhash

SLOTS: Final = 4096
"""Number of slots; 12 bits, so that a slot fits the ``rand_a`` field of a UUIDv7 (RFC 9562, 5.7)."""

_HASH_BITS: Final = 46  # what 128 bits leave beside 48 time, 4 version, 12 slot, 2 variant and 16 tag
_VERSION_7: Final = 0x7
_VARIANT_RFC: Final = 0b10

_DIGEST: Final = blake2b(digest_size=8, person=b"crest.order_id")
"""Of nothing yet, to be copied: that takes half the time of beginning one."""

_pack_id: Final = struct.Struct(">6sHQ").pack
"""Time, version and ``rand_a``, variant and ``rand_b`` of a UUIDv7."""

_unpack_id: Final = struct.Struct(">6xHQ").unpack


class Key(NamedTuple):
    """Where one order's row is: all but ``gen`` can be read from the order id itself."""

    slot: int
    """0-4095: the unit of placement on shards."""
    gen: int
    """How often the slot had moved when this copy was placed; rows under another gen are unreachable."""
    tag: int
    """0-65535: groups one customer's orders inside a slot (two customers may share it)."""
    order_id: bytes
    """16 bytes, big endian: ids of one slot and tag sort by time."""


def slot_and_tag(customer_id: str) -> tuple[int, int]:
    """Returns the slot (0-4095) and tag (0-65535) of a customer."""
    h = xxhash.xxh64_intdigest(customer_id.encode(), 0)
    return h & 0xFFF, (h >> 12) & 0xFFFF


def order_id_of(customer_id: str, request_id: bytes) -> bytes:
    """Returns the order id that ``request_id`` (16 bytes, a UUIDv7) of this customer creates, anywhere and always.

    A UUIDv7 itself: time of the request id, slot as ``rand_a``, then tag and 46 bits of BLAKE2b over
    (request_id, customer_id).
    """
    customer = customer_id.encode()
    h = xxhash.xxh64_intdigest(customer, 0)
    digest = _DIGEST.copy()
    digest.update(request_id + customer)
    low = int.from_bytes(digest.digest(), "big") >> (64 - _HASH_BITS)
    low |= _VARIANT_RFC << 62 | ((h >> 12) & 0xFFFF) << _HASH_BITS
    return _pack_id(request_id, _VERSION_7 << 12 | h & 0xFFF, low)  # of the request id the first 6 bytes


def key_of(order_id: bytes, gen: int) -> Key:
    """Returns the key of an order id (16 bytes) under generation ``gen`` of its slot."""
    rand_a, rand_b = _unpack_id(order_id)
    return Key(rand_a & 0xFFF, gen, rand_b >> _HASH_BITS & 0xFFFF, order_id)


def slot_of(order_id: bytes) -> int:
    """Returns the slot (0-4095) written in an order id (16 bytes)."""
    return (order_id[6] & 0xF) << 8 | order_id[7]


def time_ms_of(uuid7: bytes) -> int:
    """Returns the Unix time in milliseconds written in a UUIDv7 (16 bytes)."""
    return int.from_bytes(uuid7[:6], "big")


def bucket_of(uuid7: bytes, bucket_s: int) -> int:
    """Returns the number of the time bucket of ``bucket_s`` seconds that a UUIDv7 (16 bytes) falls into."""
    return int.from_bytes(uuid7[:6], "big") // (bucket_s * 1000)


def parse_uuid7(text: str) -> bytes | None:
    """Returns the 16 bytes of a UUIDv7 in hyphenated text of either case, or None when ``text`` is anything else."""
    if len(text) != 36 or text[8] != "-" or text[13] != "-" or text[18] != "-" or text[23] != "-":
        return None
    if text[14] != "7" or text[19] not in "89abAB":
        return None
    try:
        raw = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        return None
    # fromhex skips blanks, so a text with blanks in place of digits yields too few bytes
    return raw if len(raw) == 16 else None


def format_uuid(raw: bytes) -> str:
    """Returns the canonical lower-case text of 16 bytes."""
    h = raw.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def wall_clock_ms() -> int:
    """Returns Unix time in milliseconds: the clock that ids and buckets are told by."""
    return time.time_ns() // 1_000_000


def mint_uuid7(time_ms: int | None = None) -> bytes:
    """Returns a new UUIDv7 (16 bytes) of ``time_ms`` (default: now), with 74 random bits (RFC 9562, 5.7)."""
    ms = wall_clock_ms() if time_ms is None else time_ms
    number = ms << 80 | _VERSION_7 << 76 | secrets.randbits(12) << 64 | _VARIANT_RFC << 62 | secrets.randbits(62)
    return uuid.UUID(int=number).bytes
