"""What was asked, what was answered, and every promise that the answers break. Pure.

A trial is open while its sends are under way and is folded into two numbers of its customer when it closes, so a
million orders fit into memory: the sum of their ids and the sum of their bytes' hashes, each modulo 2^128. Any order
missing, added or changed in the final audit changes a sum.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import xxhash

from protos.orders.v1 import orders_pb2

FINDINGS_MAX: Final = 50
"""So many findings are kept as text; all are counted."""

_MODULUS: Final = 1 << 128


@dataclass(slots=True)
class Trial:
    """One request and the answers to it so far."""

    request: orders_pb2.CreateOrderRequest
    raw: bytes
    """The request as sent, every time the same bytes."""
    sends: int
    """How often it is to be sent: 1-5."""
    order: bytes | None = None
    """The ``order`` of the first answer."""
    answers: int = 0
    created: int = 0
    """Answers that were not ``replayed``."""
    lost: int = 0
    """Tries that ended without an answer, so that the one which created may be among them."""


@dataclass(slots=True)
class _Account:
    """All closed trials of one customer."""

    orders: int = 0
    ids: int = 0
    hashes: int = 0

    def add(self, order_id: int, raw: bytes) -> None:
        self.orders += 1
        self.ids = (self.ids + order_id) % _MODULUS
        self.hashes = (self.hashes + _hash(raw)) % _MODULUS


@dataclass(slots=True)
class Ledger:
    """Judges answers one by one, each request when its last answer is in, and each customer in the end."""

    findings: list[str] = field(default_factory=list)
    findings_count: int = 0
    orders: int = 0
    """Trials closed."""
    answers: int = 0
    replays: int = 0
    lost: int = 0
    missing: int = 0
    """Orders that were acknowledged and are not listed."""
    surplus: int = 0
    """Orders that are listed and were not acknowledged, or are listed twice."""
    _accounts: dict[str, _Account] = field(default_factory=dict)

    @property
    def customers(self) -> Sequence[str]:
        """Everyone who has ordered."""
        return tuple(self._accounts)

    def find(self, text: str) -> None:
        """Notes a broken promise."""
        self.findings_count += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(text)

    def answered(self, trial: Trial, order: bytes, *, replayed: bool) -> None:
        """Takes one answer to a trial: the bytes of its ``order`` and its ``replayed``."""
        self.answers += 1
        self.replays += replayed
        trial.answers += 1
        trial.created += not replayed
        if trial.order is None:
            trial.order = order
        elif trial.order != order:
            self.find(f"request {trial.request.request_id}: two answers differ: {trial.order.hex()} and {order.hex()}")

    def lost_answer(self, trial: Trial) -> None:
        """Takes note that a try of a trial ended without an answer."""
        self.lost += 1
        trial.lost += 1

    def close(self, trial: Trial) -> None:
        """Judges a trial when nothing more is under way for it, and enters its order into the customer's account."""
        name = f"request {trial.request.request_id} ({trial.answers} answers, {trial.lost} lost)"
        self.orders += 1
        if trial.order is None:
            self.find(f"{name}: never answered")
            return
        if trial.created > 1:
            self.find(f"{name}: {trial.created} answers say that they created the order")
        elif trial.created == 0 and trial.lost == 0:
            self.find(f"{name}: every answer is a replay, and none was lost")
        order = orders_pb2.Order.FromString(trial.order)
        for problem in order_problems(trial.request, order):
            self.find(f"{name}: {problem}")
        account = self._accounts.setdefault(trial.request.customer_id, _Account())
        account.add(_number(order.order_id), trial.order)

    def audit(self, customer: str, listed: Sequence[bytes]) -> None:
        """Judges the complete list of a customer's orders: their bytes, newest first, as the service told them."""
        wanted = self._accounts[customer]
        found = _Account()
        before = _MODULUS
        for raw in listed:
            order = orders_pb2.Order.FromString(raw)
            number = _number(order.order_id)
            if number == before:
                self.find(f"customer {customer}: order {order.order_id} is listed twice")
            elif number > before:
                self.find(f"customer {customer}: order {order.order_id} is listed out of order")
            if order.customer_id != customer:
                self.find(f"customer {customer}: order {order.order_id} of {order.customer_id} is listed")
            before = number
            found.add(number, raw)
        self.missing += max(0, wanted.orders - found.orders)
        self.surplus += max(0, found.orders - wanted.orders)
        if found.orders != wanted.orders:
            self.find(f"customer {customer}: {found.orders} orders are listed, {wanted.orders} were acknowledged")
        elif found.ids != wanted.ids:
            self.find(f"customer {customer}: other orders are listed than were acknowledged")
        elif found.hashes != wanted.hashes:
            self.find(f"customer {customer}: an order is listed otherwise than it was acknowledged")


def order_problems(request: orders_pb2.CreateOrderRequest, order: orders_pb2.Order) -> list[str]:
    """Returns in which ways an order is not what its request asked for, freshly created."""
    problems = [
        f"{name} is not the one asked for"
        for name in ("customer_id", "currency_code", "lines")
        if getattr(order, name) != getattr(request, name)
    ]
    if dict(order.attributes) != dict(request.attributes):
        problems.append("attributes is not the one asked for")
    if order.total_minor != sum(line.quantity * line.unit_price_minor for line in request.lines):
        problems.append("total_minor is not the sum of the lines")
    if (order.state, order.version) != (orders_pb2.Order.STATE_PENDING, 1):
        problems.append(f"state {order.state} and version {order.version} are not those of a new order")
    if len(order.transitions) != 1 or not order.create_time == order.update_time == order.transitions[0].time:
        problems.append("the transitions are not those of a new order")
    wanted = uuid.UUID(request.request_id).int >> 80
    slot = xxhash.xxh64_intdigest(request.customer_id.encode(), 0) & 0xFFF
    address = _number(order.order_id) >> 64
    if address != wanted << 16 | 0x7000 | slot:
        problems.append(f"order id {order.order_id} does not carry the request's time and the customer's slot")
    return problems


def _number(order_id: str) -> int:
    try:
        return uuid.UUID(order_id).int
    except ValueError:
        return 0  # no UUID at all: `order_problems` says so


def _hash(raw: bytes) -> int:
    return int.from_bytes(blake2b(raw, digest_size=16).digest(), "big")
