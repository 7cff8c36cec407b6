"""The operator's benchmark of a service that is running: a method, a shape of load, and a page of what came of it.

The methods' configurations of ghz stand in ``bench/config`` and can be used by hand; those that need orders read the
files that ``prepare`` writes.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc

from bench import installed, load
from bench.ghz import Call, GhzError, read_report
from bench.installed import ROOT
from bench.parts import Chart, Event, Outcome, Row, Series, Side
from bench.summary import Range, percentile
from protos.orders.v1 import orders_pb2, orders_pb2_grpc

CONFIG: Final = ROOT / "bench" / "config"
ORDERS: Final = ROOT / "bench" / "results" / "orders"
"""Where the configurations look for orders; they are JSON, an object a call."""

STEPS: Final = 5
QUIET_SHARE: Final = 0.1
"""Of the rate, before a flash."""

HOT_ORDERS: Final = 1_000
"""Read over and over, unless the load changes orders: then each is used once."""

ORDERS_MAX: Final = 200_000
_BATCH: Final = 500
_MOVED_AT_ONCE: Final = 256
"""Calls under way while orders are brought to the state that a method needs."""

_PER_READ: Final = 10
_CALL_TIMEOUT_S: Final = 30
_END_TIMEOUT_S: Final = 120
_POINTS_MAX: Final = 120
"""Points of a line over time."""


class Method(StrEnum):
    """What can be called; the name is that of its configuration."""

    CREATE = "create-order"
    BATCH_CREATE = "batch-create-orders"
    GET = "get-order"
    BATCH_GET = "batch-get-orders"
    LIST = "list-orders"
    SUBMIT = "submit-orders"
    """A call is a stream of ten orders."""
    WATCH = "watch-order"
    """Of orders in a final state, so that the stream ends with it."""
    CONFIRM_PAYMENT = "confirm-payment"
    SHIP = "ship-order"
    DELIVER = "deliver-order"
    CANCEL = "cancel-order"
    REFUND = "refund-order"
    TOPOLOGY = "get-topology"


READS: Final = (Method.GET, Method.BATCH_GET, Method.WATCH)
TRANSITIONS: Final = (Method.CONFIRM_PAYMENT, Method.SHIP, Method.DELIVER, Method.CANCEL, Method.REFUND)
BEFORE: Final[Mapping[Method, Sequence[str]]] = {
    Method.WATCH: ("CancelOrder",),
    Method.SHIP: ("ConfirmPayment",),
    Method.DELIVER: ("ConfirmPayment", "ShipOrder"),
    Method.REFUND: ("ConfirmPayment",),
}
"""What happens to an order, once it is created, before a method may be called on it; the others take new ones."""


class Shape(StrEnum):
    """How the load comes."""

    CONSTANT = "constant"
    STEP = "step"
    """Five steps up to the rate."""
    FLASH = "flash"
    """A tenth of the rate, then all of it at once, as at 00:00 of a sale."""


class Load(NamedTuple):
    """What is sent."""

    method: Method
    shape: Shape
    rate: int
    """Calls a second at the most; 0 for a closed loop, which only the constant shape has."""
    seconds: float

    @property
    def rises(self) -> list[tuple[float, int]]:
        """When, in seconds from the start, and to how many calls a second the load rises."""
        if self.shape is Shape.STEP:
            each = self.seconds / STEPS
            return [(number * each, self.rate * (number + 1) // STEPS) for number in range(STEPS)]
        if self.shape is Shape.FLASH:
            return [(0.0, max(1, int(self.rate * QUIET_SHARE))), (self.seconds / 3, self.rate)]
        return [(0.0, self.rate)]


def flags(wanted: Load) -> list[str]:
    """Returns what ghz is told beside the configuration."""
    seconds = f"--duration={wanted.seconds:g}s"
    if not wanted.rate:
        return [seconds]
    rises = wanted.rises
    if len(rises) == 1:
        return [seconds, "--async", f"--rps={wanted.rate}"]
    (_, first), (until, second) = rises[0], rises[1]
    return [
        seconds,
        "--async",
        "--load-schedule=step",
        f"--load-start={first}",
        f"--load-step={second - first}",
        f"--load-end={wanted.rate}",
        f"--load-step-duration={until:g}s",
    ]


def starts_in_s(at: str, now: datetime, wanted: Load) -> float:
    """Returns the seconds to wait so that the last rise of the load falls on ``at`` (HH:MM, the next one to come)."""
    hour, minute = (int(part) for part in at.split(":"))
    moment = now.replace(hour=hour, minute=minute, second=0, microsecond=0) - timedelta(seconds=wanted.rises[-1][0])
    return (moment - now).total_seconds() % 86_400


def prepare(address: str, wanted: Load) -> int:
    """Creates the orders that the method needs, in the service itself; returns how many. Raises ``grpc.RpcError``."""
    if wanted.method not in READS + TRANSITIONS:
        return 0
    count = HOT_ORDERS
    if wanted.method in TRANSITIONS:  # each order once: what moved cannot move again
        count = min(ORDERS_MAX, int((wanted.rate or 10_000) * wanted.seconds) + _BATCH)
    with grpc.insecure_channel(address) as channel:
        stub = orders_pb2_grpc.OrderServiceStub(channel)
        ids = _created(stub, count)
        for step in BEFORE.get(wanted.method, ()):
            _move(stub, step, ids)
    ORDERS.mkdir(parents=True, exist_ok=True)
    calls: list[dict[str, object]]
    if wanted.method is Method.BATCH_GET:
        calls = [{"order_ids": ids[start : start + _PER_READ]} for start in range(0, len(ids), _PER_READ)]
    else:
        calls = [{"order_id": order_id} for order_id in ids]
    (ORDERS / f"{wanted.method}.json").write_text(json.dumps(calls), encoding="utf-8")
    return len(ids)


def _created(stub: orders_pb2_grpc.OrderServiceStub, count: int) -> list[str]:
    chance = random.Random()
    ids: list[str] = []
    while len(ids) < count:
        requests = [load.create_request(chance) for _ in range(_BATCH)]
        request = orders_pb2.BatchCreateOrdersRequest(requests=requests)
        answer = stub.BatchCreateOrders(request, timeout=_CALL_TIMEOUT_S, wait_for_ready=True)
        made = [result.order.order_id for result in answer.results if result.HasField("order")]
        if not made:
            raise GhzError(f"the service creates no order: {answer.results[0].error.message}")
        ids += made
    return ids


def _move(stub: orders_pb2_grpc.OrderServiceStub, step: str, ids: Sequence[str]) -> None:
    """Makes one transition of every order."""
    method, request = getattr(stub, step), getattr(orders_pb2, f"{step}Request")
    under_way: deque[Any] = deque()
    for order_id in ids:
        if len(under_way) >= _MOVED_AT_ONCE:
            under_way.popleft().result()
        under_way.append(method.future(request(order_id=order_id), timeout=_CALL_TIMEOUT_S))
    for call in under_way:
        call.result()


def run(address: str, wanted: Load, extra: Sequence[str], report: Path) -> tuple[Call, ...]:
    """Runs ghz to its end and returns every call. Raises ``GhzError`` and ``InstallError``."""
    command = [str(installed.ensure(installed.GHZ)), f"--config={CONFIG / f'{wanted.method}.json'}", *flags(wanted)]
    command += [*extra, "--format=json", f"--output={report}", address]
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=wanted.seconds + _END_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise GhzError("ghz failed: " + ((done.stderr or done.stdout).strip().splitlines() or ["no output"])[-1])
    return read_report(report.read_bytes())


def outcome(calls: Sequence[Call], wanted: Load, address: str) -> Outcome:
    """Returns what the page shows. Pure."""
    answered = sorted(call.latency_s * 1e3 for call in calls if call.code == "OK")
    codes = Counter(call.code for call in calls if call.code != "OK")
    if not answered:
        return Outcome(findings=[f"no call of {len(calls):,} was answered OK: {_told(codes)}"])
    began = min(call.ended_s - call.latency_s for call in calls)
    took_s = max(0.001, max(call.ended_s for call in calls) - began)
    work = f"{wanted.method}, {wanted.shape}, " + (f"up to {wanted.rate:,}/s" if wanted.rate else "closed loop")
    side = Side(
        address,
        _flat(len(answered) / took_s),
        _flat(percentile(answered, 0.50)),
        _flat(percentile(answered, 0.99)),
        errors=codes,
    )
    failed = f"{sum(codes.values()):,} of {len(calls):,} calls were not answered OK: {_told(codes)}"
    row = Row(work, side, unit="calls/s")
    return Outcome([row], _charts(calls, wanted, began, took_s), {}, [failed] if codes else [])


def _charts(calls: Sequence[Call], wanted: Load, began: float, took_s: float) -> list[Chart]:
    width_s = max(0.25, took_s / _POINTS_MAX)
    windows: list[list[Call]] = [[] for _ in range(int(took_s / width_s) + 1)]
    for call in calls:
        windows[int((call.ended_s - began) / width_s)].append(call)
    windows = windows[:-1] or windows  # the last one is not whole: its rate would say nothing
    x = [number * width_s for number in range(len(windows))]
    good = [sorted(call.latency_s * 1e3 for call in some if call.code == "OK") for some in windows]
    bad = [sum(call.code != "OK" for call in some) / width_s for some in windows]
    rates = [Series("answered OK", x, [len(some) / width_s for some in good])]
    if any(bad):
        rates.append(Series("not OK", x, bad))
    events = [Event(at, f"{rate:,}/s") for at, rate in wanted.rises if wanted.rate]
    offered = " Dotted: from when on so many calls a second are made." if events else ""
    latencies = [
        Series(name, x, [percentile(some, share) if some else None for some in good])
        for name, share in (("p50", 0.50), ("p99", 0.99))
    ]
    ordered = sorted(latency for some in good for latency in some)
    shares = (0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 0.999)
    spread = Series("ms", [f"{share * 100:g} %" for share in shares], [percentile(ordered, share) for share in shares])
    return [
        Chart(
            "Calls a second", f"By the moment they ended.{offered}", "step", "seconds", "calls/s", rates, events=events
        ),
        Chart(
            "Latency over time",
            f"Half of the calls that ended then took p50 or less, 99 of 100 took p99 or less.{offered}",
            "line",
            "seconds",
            "ms",
            latencies,
            log_y=True,
            events=events,
        ),
        Chart(
            "Latency of all calls",
            "Such a share of the calls answered OK took so long or less.",
            "bar",
            "",
            "ms",
            [spread],
        ),
    ]


def wait(seconds: float) -> None:
    """Waits for the moment that the operator chose."""
    time.sleep(seconds)  # sleep: until a time of day


def _told(codes: Counter[str]) -> str:
    return ", ".join(f"{count:,} {code}" for code, count in codes.most_common())


def _flat(value: float) -> Range:
    return Range(value, value, value)
