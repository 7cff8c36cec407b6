"""Rows to put into stores."""

import time

from shards.contract import MARK_BYTES, Row
from shards.keys import Key, key_of, mint_uuid7, order_id_of


def new_row(customer: str = "customer", *, body: bytes = b"body", request_id: bytes | None = None) -> Row:
    """Version 1 of a new order; the same request id gives the same order."""
    request_id = mint_uuid7() if request_id is None else request_id
    return Row(key_of(order_id_of(customer, request_id), 0), customer, request_id + bytes(MARK_BYTES - 16), body)


def next_version(row: Row, *, body: bytes = b"later", request_id: bytes | None = None) -> Row:
    """The version after this one."""
    request_id = mint_uuid7() if request_id is None else request_id
    return row._replace(marks=row.marks + request_id + bytes(MARK_BYTES - 16), body=body)


def key_in_slot(slot: int, request_id: bytes | None = None) -> Key:
    """A key of some customer whose slot is this one."""
    request_id = mint_uuid7() if request_id is None else request_id
    order_id = bytearray(order_id_of("customer", request_id))
    order_id[6:8] = (0x7000 | slot).to_bytes(2, "big")
    return key_of(bytes(order_id), 0)


def soon(seconds: float = 10.0) -> float:
    """A deadline so many seconds from now."""
    return time.monotonic() + seconds
