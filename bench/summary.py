"""From calls to figures. Pure: no process, clock or file.

Medians with their range, never means: a machine that does something else for a second makes one round slow, and a
median over interleaved rounds passes that round over.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench.ghz import Call


class Round(NamedTuple):
    """The figures of one round against one subject."""

    subject: str
    transport: str
    loop: str
    """``closed`` (callers wait for their answer) or ``open`` (calls start at a fixed rate)."""
    orders: int
    """Calls answered OK."""
    window_s: float
    """The time in which all ports were under load at once; rate and latencies are of calls that ended in it."""
    orders_per_s: float
    p50_ms: float
    p99_ms: float
    errors: dict[str, int]
    """Calls not answered OK by the name of their code."""
    repeated: int
    """Calls sent beyond the unique messages: replays, which cost less than orders. 0, or the round is void."""
    server_cpu_s: float
    ghz_cpu_s: float
    others_cores: float
    """Cores that were busy with anything else meanwhile, the kernel's own work included: the noise of the figure."""


class Range(NamedTuple):
    """The median of the rounds, and how far they lie apart."""

    median: float
    least: float
    most: float


class Summary(NamedTuple):
    """All rounds of one subject under one loop."""

    subject: str
    transport: str
    loop: str
    rounds: int
    orders: int
    orders_per_s: Range
    p50_ms: Range
    p99_ms: Range
    errors: dict[str, int]
    repeated: int
    server_cpu_s_per_1000: Range
    ghz_cpu_s_per_1000: Range
    others_cores: Range


def measure(calls: Sequence[Sequence[Call]]) -> tuple[float, float, float, float]:
    """Returns window in s, OK calls a second, and median and 99th percentile of their latency in ms.

    ``calls`` are those of each port, by their end. Ports start and end a little apart, so only the time when all were
    under load counts. All zero when there was none.
    """
    if not calls or not all(calls):
        return 0.0, 0.0, 0.0, 0.0
    start = max(port[0].ended_s for port in calls)
    end = min(port[-1].ended_s for port in calls)
    latencies_s = sorted(
        call.latency_s for port in calls for call in port if call.code == "OK" and start < call.ended_s <= end
    )
    if not latencies_s:
        return 0.0, 0.0, 0.0, 0.0
    window_s = end - start
    return (
        window_s,
        len(latencies_s) / window_s,
        percentile(latencies_s, 0.50) * 1e3,
        percentile(latencies_s, 0.99) * 1e3,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Returns the least value that at least ``share`` (0-1] of the ascending, non-empty values do not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]


def spread(values: Iterable[float]) -> Range:
    """Returns median, least and most of at least one value."""
    found = list(values)
    return Range(statistics.median(found), min(found), max(found))


def summarise(rounds: Sequence[Round]) -> Summary:
    """Returns the summary of at least one round of one subject under one loop."""
    first = rounds[0]
    errors: Counter[str] = Counter()
    for one in rounds:
        errors.update(one.errors)
    return Summary(
        first.subject,
        first.transport,
        first.loop,
        len(rounds),
        sum(one.orders for one in rounds),
        spread(one.orders_per_s for one in rounds),
        spread(one.p50_ms for one in rounds),
        spread(one.p99_ms for one in rounds),
        dict(errors),
        sum(one.repeated for one in rounds),
        spread(one.server_cpu_s / max(1, one.orders) * 1e3 for one in rounds),
        spread(one.ghz_cpu_s / max(1, one.orders) * 1e3 for one in rounds),
        spread(one.others_cores for one in rounds),
    )


def ratio(rounds: Sequence[Round], peers: Sequence[Round]) -> Range | None:
    """Returns the rate of each round over that of the peer's round beside it, or None where there is none to compare.

    Neighbours in time share what else the machine was doing, so the ratio of a pair says more than that of two medians.
    """
    pairs = [(one, peer) for one, peer in zip(rounds, peers, strict=False) if peer.orders_per_s > 0]
    return spread(one.orders_per_s / peer.orders_per_s for one, peer in pairs) if pairs else None
