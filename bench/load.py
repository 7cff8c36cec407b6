"""The messages that a benchmark sends: every order under a request id of its own; stored they take about 300 bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from protos.orders.v1 import orders_pb2
from shards.keys import format_uuid, mint_uuid7

CUSTOMERS: Final = 10_000
"""Orders are spread over so many customers, hence over all slots and shards."""

MESSAGES_MAX: Final = 2_000_000
"""Most messages of one file: ghz holds all of them in memory, at about 1 KiB each."""

_CURRENCIES: Final = ("EUR", "USD", "GBP", "SEK")
_CHANNELS: Final = ("web", "app", "store", "phone")

_CONTENTS: Final = 4_096
"""Different contents of the orders of a file: an order differs from another in its request id, and mostly in more."""

_SEVEN_BITS: Final = 0x7F


class Kind(NamedTuple):
    """What ghz calls, and with which messages."""

    call: str
    orders_per_call: int = 1
    ids: Sequence[str] = ()
    """For reads: the orders asked for, over and over. Empty for writes, where each message is an order of its own."""

    @property
    def method(self) -> str:
        """As ghz takes it."""
        return f"orders.v1.OrderService/{self.call}"

    @property
    def is_write(self) -> bool:
        """Whether a message sent twice is a replay, which costs less."""
        return not self.ids


CREATE: Final = Kind("CreateOrder")


def batch_of(orders: int) -> Kind:
    """Returns BatchCreateOrders with so many orders a call."""
    return Kind("BatchCreateOrders", orders)


def get(ids: Sequence[str]) -> Kind:
    """Returns GetOrder of these orders."""
    return Kind("GetOrder", 1, ids)


def create_request(chance: random.Random) -> orders_pb2.CreateOrderRequest:
    """Returns one order with a fresh UUIDv7 of now as its request id: two lines, two attributes, about 170 bytes."""
    return orders_pb2.CreateOrderRequest(
        request_id=format_uuid(mint_uuid7()),
        customer_id=f"customer-{chance.randrange(CUSTOMERS):05d}",
        currency_code=chance.choice(_CURRENCIES),
        lines=[
            orders_pb2.OrderLine(
                sku=f"SKU-{chance.randrange(1_000_000):06d}-{chance.randrange(100):02d}",
                quantity=chance.randrange(1, 10),
                unit_price_minor=chance.randrange(100, 100_000),
            )
            for _ in range(2)
        ],
        attributes={"channel": chance.choice(_CHANNELS), "campaign": f"{chance.getrandbits(128):032x}"},
    )


def write_messages(path: Path, count: int, chance: random.Random, kind: Kind = CREATE) -> None:
    """Writes ``count`` messages, each behind its length as a varint: what ghz reads with ``--binary-file``.

    Raises ``ValueError`` for a count outside 1-``MESSAGES_MAX``.
    """
    if not 1 <= count <= MESSAGES_MAX:
        raise ValueError(f"{count} messages, allowed are 1-{MESSAGES_MAX}")
    with path.open("wb") as file:
        file.writelines(delimited(message) for message in _messages(count, chance, kind))


def _messages(count: int, chance: random.Random, kind: Kind) -> Iterator[bytes]:
    if kind.ids:
        for number in range(count):
            yield orders_pb2.GetOrderRequest(order_id=kind.ids[number % len(kind.ids)]).SerializeToString()
        return
    orders = _orders(chance, min(_CONTENTS, count * kind.orders_per_call))
    for _ in range(count):
        if kind.orders_per_call == 1:
            yield next(orders)
        else:
            # `requests`, field 1 of the batch
            yield b"".join(b"\x0a" + delimited(next(orders)) for _ in range(kind.orders_per_call))


def _orders(chance: random.Random, contents: int) -> Iterator[bytes]:
    """Yields serialized orders without end; the content is made once, a fresh request id put before it each time."""
    made = []
    for _ in range(contents):
        request = create_request(chance)
        request.ClearField("request_id")
        made.append(request.SerializeToString())
    while True:
        yield b"\x0a\x24" + format_uuid(mint_uuid7()).encode() + chance.choice(made)  # field 1, 36 bytes


def delimited(message: bytes) -> bytes:
    """Returns a message behind its length as a varint."""
    length = len(message)
    prefix = bytearray()
    while length > _SEVEN_BITS:
        prefix.append(length & _SEVEN_BITS | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + message
