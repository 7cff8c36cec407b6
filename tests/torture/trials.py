"""The requests of a run: everything but the time in their ids follows from the seed."""

from __future__ import annotations

import random
import time
import uuid
from typing import Final

from protos.orders.v1 import orders_pb2
from tests.torture.ledger import Trial

SENDS_MAX: Final = 5

GROUP_SIZES: Final = (*(1,) * 60, 20, 100)
"""A group is sent in one call: CreateOrder for one request (a third of all), BatchCreateOrders for more."""

_ORDERS_A_CUSTOMER: Final = 400
_CURRENCIES: Final = ("EUR", "USD", "JPY", "BHD")


class Trials:
    """Makes trials. Two runs of one seed and count make the same ones, but for the time in the request ids."""

    def __init__(self, seed: int, count: int) -> None:
        self._seed = seed
        self._chance = random.Random(seed)
        self._customers = max(8, count // _ORDERS_A_CUSTOMER)
        self._left = count

    def group(self) -> list[Trial]:
        """Returns the next group, empty when ``count`` trials have been made."""
        size = min(self._chance.choice(GROUP_SIZES), self._left)
        self._left -= size
        return [self._trial() for _ in range(size)]

    def _trial(self) -> Trial:
        chance = self._chance
        request = orders_pb2.CreateOrderRequest(
            request_id=_uuid7(chance),
            customer_id=f"torture-{self._seed:x}-{chance.randrange(self._customers)}",
            currency_code=chance.choice(_CURRENCIES),
            lines=[
                orders_pb2.OrderLine(
                    sku=f"SKU-{chance.randrange(10_000)}",
                    quantity=chance.randrange(1, 100),
                    unit_price_minor=chance.randrange(1_000_000),
                )
                for _ in range(chance.choice((1, 1, 2, 3)))
            ],
            attributes={f"key-{number}": str(chance.random()) for number in range(chance.choice((0, 1, 3)))},
        )
        return Trial(request, request.SerializeToString(), chance.randrange(1, SENDS_MAX + 1))


def other_payload(trial: Trial) -> bytes:
    """Returns a request of the same customer under the same id that asks for something else."""
    request = orders_pb2.CreateOrderRequest.FromString(trial.raw)
    request.lines[0].quantity += 1
    return request.SerializeToString()


def _uuid7(chance: random.Random) -> str:
    number = time.time_ns() // 1_000_000 << 80 | 0x7 << 76 | chance.getrandbits(12) << 64
    return str(uuid.UUID(int=number | 0b10 << 62 | chance.getrandbits(62)))
