"""What callers hand in and get back: plain frozen values, none of them a protobuf message.

Money is an integer in minor units of the currency (cents for USD, yen for JPY). Times are aware datetimes in UTC with
microseconds, exactly as the service keeps them.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class State(enum.IntEnum):
    """Where an order stands in its life cycle. The numbers are those of the wire."""

    UNKNOWN = 0
    """A state that this client is too old to know."""
    PENDING = 1
    PAID = 2
    SHIPPED = 3
    DELIVERED = 4
    CANCELLED = 5
    REFUNDED = 6

    @classmethod
    def _missing_(cls, _value: object) -> State:
        return cls.UNKNOWN

    @property
    def is_final(self) -> bool:
        """Whether nothing leads out of this state."""
        return self in {State.CANCELLED, State.REFUNDED}


class Consistency(enum.IntEnum):
    """Which answer a read accepts."""

    CACHED = 1
    """A real version of the order, a little old at most, and never older than ``min_version``."""
    STRONG = 2
    """The current version: linearizable with every acknowledged write."""


@dataclass(frozen=True, slots=True)
class OrderLine:
    """One line of an order: ``quantity`` pieces of ``sku`` at ``unit_price_minor`` each."""

    sku: str
    quantity: int
    unit_price_minor: int


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order that does not exist yet. With ``request_id`` empty the client mints one."""

    customer_id: str
    currency_code: str
    lines: Sequence[OrderLine]
    attributes: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Transition:
    """One step in an order's life; the i-th one (from 0) made version i + 1."""

    state: State
    version: int
    time: dt.datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Order:
    """One order at one version. ``transitions[0]`` is its creation."""

    order_id: str
    customer_id: str
    state: State
    version: int
    currency_code: str
    lines: tuple[OrderLine, ...]
    total_minor: int
    attributes: Mapping[str, str]
    create_time: dt.datetime
    update_time: dt.datetime
    transitions: tuple[Transition, ...]


@dataclass(frozen=True, slots=True)
class Created:
    """Answers a create: the order as this request left it (version 1), and whether an earlier try had created it."""

    order: Order
    replayed: bool


@dataclass(frozen=True, slots=True)
class Changed:
    """Answers a transition: the order as this request left it, and whether an earlier try had made the transition."""

    order: Order
    replayed: bool


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a customer's orders, newest first; ``next_page_token`` is empty after the last one."""

    orders: tuple[Order, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Found:
    """Answers a read of many ids: the orders in the order asked for, and the ids under which there is none."""

    orders: tuple[Order, ...]
    missing_order_ids: tuple[str, ...]


class WorkerState(enum.IntEnum):
    """What a worker is doing, as its supervisor last saw it."""

    UNKNOWN = 0
    STARTING = 1
    SERVING = 2
    DRAINING = 3

    @classmethod
    def _missing_(cls, _value: object) -> WorkerState:
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process of the server and its own endpoint, ``host:port``."""

    worker_id: int
    address: str
    state: WorkerState


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard and its share of the slots, relative to the others' weights."""

    shard_id: int
    weight: int


@dataclass(frozen=True, slots=True)
class Topology:
    """Where orders live and who serves them: for each of the 4,096 slots the id of its shard, and all workers."""

    epoch: int
    shards: tuple[Shard, ...]
    slot_shards: tuple[int, ...]
    workers: tuple[Worker, ...]
