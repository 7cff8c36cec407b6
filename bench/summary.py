"""From calls to figures. Pure: no process, clock or file.

Medians with their range, never means: a machine that does something else for a second makes one round slow, and a
median over interleaved rounds passes that round over.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bench.ghz import Call


class Round(NamedTuple):
    """The figures of one round against one subject."""

    subject: str
    loop: str
    """``closed`` (callers wait for their answer) or ``open`` (calls start at a fixed rate)."""
    orders: int
    """Orders of the calls answered OK."""
    window_s: float
    """The time in which all ports were under load at once; rate and latencies are of calls that ended in it."""
    orders_per_s: float
    p50_ms: float
    p99_ms: float
    errors: Mapping[str, int]
    """Calls not answered OK by the name of their code."""
    repeated: int
    """Calls sent beyond the unique messages: replays, which cost less than orders. 0, or the round is void."""
    cpu_s: Mapping[str, float]
    """Processor seconds by group: ``server``, ``cassandra``, ``redis``, ``generator``."""
    others_cores: float
    """Cores that were busy with anything else meanwhile, the kernel's own work included: the noise of the figure."""


class Range(NamedTuple):
    """The median of the rounds, and how far they lie apart."""

    median: float
    least: float
    most: float


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


def cpu_s_per_1000(rounds: Sequence[Round]) -> dict[str, float]:
    """Returns the median processor seconds for 1,000 orders by group, of the rounds that answered any order."""
    some = [one for one in rounds if one.orders]
    groups = {group: None for one in some for group in one.cpu_s}
    return {group: statistics.median(one.cpu_s.get(group, 0.0) / one.orders * 1e3 for one in some) for group in groups}


def joined(rounds: Sequence[Round]) -> Round:
    """Returns several rounds of one subject as one: sums, and of latencies the medians. There is at least one."""
    window_s = sum(one.window_s for one in rounds)
    orders = sum(one.orders for one in rounds)
    groups = {group: None for one in rounds for group in one.cpu_s}
    return rounds[0]._replace(
        orders=orders,
        window_s=window_s,
        orders_per_s=orders / window_s if window_s else 0.0,
        p50_ms=statistics.median(one.p50_ms for one in rounds),
        p99_ms=statistics.median(one.p99_ms for one in rounds),
        errors=errors(rounds),
        repeated=sum(one.repeated for one in rounds),
        cpu_s={group: sum(one.cpu_s.get(group, 0.0) for one in rounds) for group in groups},
        others_cores=statistics.fmean(one.others_cores for one in rounds),
    )


def errors(rounds: Iterable[Round]) -> dict[str, int]:
    """Returns the calls not answered OK of all rounds, by code."""
    found: Counter[str] = Counter()
    for one in rounds:
        found.update(one.errors)
    return dict(found)


def settled(costs: Sequence[float], slack: float, quiet_windows: int) -> bool:
    """Whether a warm-up may end: the last ``quiet_windows`` costs an order undercut the least before by no ``slack``.

    ``costs`` are those of the windows so far; a share of 0.05 as ``slack`` means that 5 % less still counts as falling.
    """
    if len(costs) <= quiet_windows:
        return False
    before = min(costs[:-quiet_windows])
    return min(costs[-quiet_windows:]) > before * (1 - slack)


def ratio(rounds: Sequence[Round], peers: Sequence[Round]) -> Range | None:
    """Returns the rate of each round over that of the peer's round beside it, or None where there is none to compare.

    Neighbours in time share what else the machine was doing, so the ratio of a pair says more than that of two medians.
    """
    pairs = [(one, peer) for one, peer in zip(rounds, peers, strict=False) if peer.orders_per_s > 0]
    return spread(one.orders_per_s / peer.orders_per_s for one, peer in pairs) if pairs else None
