"""What came of offering more than the capacity, in words and charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from bench.offering import Tally
from bench.parts import Chart, Event, Series

CALM_TIMES: Final = 0.7
"""What is offered before and after a burst, of the capacity."""


class Burst(NamedTuple):
    """What came of one multiple."""

    times: int
    is_throttled: bool
    goodput: float
    """Calls a second answered OK in time during the burst, both kinds of callers."""
    offered: float
    rest: Tally
    critical: Tally
    seconds: Sequence[float]
    """Goodput of each second, calm and after included."""
    recovered: float
    """Least share of the calls answered OK in a second from ``RECOVERY_S`` after the burst on."""
    rss_mb: float
    """Of all processes of the service, afterwards."""
    server_cpu_s: float
    database_cpu_s: float
    generator_cpu_s: float
    others_cores: float
    """What anything else on the machine took meanwhile: little, or the figures say nothing of the service."""
    behind_ms: float
    """By how much the generator was late itself, p99."""


def label(burst: Burst) -> str:
    """Returns its name."""
    return f"{burst.times} times its capacity" + (", callers hold back" if burst.is_throttled else "")


def served(tally: Tally) -> float:
    """Returns the share of the calls offered that were answered OK in time."""
    return tally.ok / max(1, tally.offered)


def charts(bursts: Sequence[Burst], capacity: float) -> list[Chart]:
    """Draws goodput over what was offered, and second by second."""
    plain = [burst for burst in bursts if not burst.is_throttled]
    begins_s = max(1, min(len(bursts[0].seconds) - len(bursts[0].rest.slices), 2))
    goodput = Chart(
        title="Goodput under overload",
        explains="Orders a second answered in time, by how much was offered. It should stay level to the right of 1.",
        kind="line",
        x_label="offered, multiples of the capacity",
        y_label="orders a second",
        series=[
            Series("answered in time", [float(b.times) for b in plain], [b.goodput for b in plain]),
        ],
        limit=capacity,
        limit_text="capacity",
    )
    seconds = Chart(
        title="Into a burst and out of it",
        explains="Orders a second answered in time, second by second. After the burst the lines should come back to "
        f"{CALM_TIMES:.0%} of the capacity at once.",
        kind="line",
        x_label="seconds",
        y_label="orders a second",
        series=[
            Series(label(burst), [float(second) for second in range(len(burst.seconds))], list(burst.seconds))
            for burst in bursts
        ],
        events=[
            Event(float(begins_s), "the burst begins"),
            Event(float(begins_s + len(bursts[0].rest.slices)), "the burst is over"),
        ],
        limit=capacity,
        limit_text="capacity",
    )
    return [goodput, seconds]
