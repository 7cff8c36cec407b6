"""The orders that a benchmark sends, every one under a request id of its own; stored they take about 300 bytes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from google.protobuf import proto

from protos.orders.v1 import orders_pb2
from shards.keys import format_uuid, mint_uuid7

CUSTOMERS: Final = 10_000
"""Orders are spread over so many customers, hence over all slots and shards."""

MESSAGES_MAX: Final = 2_000_000
"""Most messages of one file: ghz holds all of them in memory, at about 1 KiB each."""

_CURRENCIES: Final = ("EUR", "USD", "GBP", "SEK")
_CHANNELS: Final = ("web", "app", "store", "phone")


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


def write_messages(path: Path, count: int, chance: random.Random) -> None:
    """Writes ``count`` requests, each behind its length as a varint: what ghz reads with ``--binary-file``."""
    if not 1 <= count <= MESSAGES_MAX:
        raise ValueError(f"{count} messages, allowed are 1-{MESSAGES_MAX}")
    with path.open("wb") as file:
        for _ in range(count):
            # the stub asks for BytesIO, the function for anything to write bytes to
            proto.serialize_length_prefixed(create_request(chance), file)  # type: ignore[arg-type]  # see above
