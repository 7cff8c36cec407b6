"""What moving slots costs: how fast orders are copied and verified, and what callers feel of 3 -> 4 -> 3 shards."""

from __future__ import annotations

import asyncio
from typing import Final

from bench.moving.copying import Copied, copy_cassandra, copy_embedded
from bench.moving.live import Live, move_there_and_back, quantile
from bench.parts import Chart, Context, Event, Outcome, Row, Series, Side
from bench.summary import Range

PAUSE_P99_MS: Final = 100.0
PAUSE_MAX_MS: Final = 1_000.0
"""How long an order may wait because its slot moves: 99 of 100, and all."""


class RebalancePart:
    """See the module. A part of ``python -m bench``."""

    name = "rebalance"
    title = "Moving slots between shards while orders flow"
    needs_bed = True
    budget_s = 480.0

    def run(self, context: Context) -> Outcome:
        """Measures."""
        assert context.bed is not None
        rows_count = 4_000 if context.is_quick else 20_000
        embedded = asyncio.run(copy_embedded(context.scratch, rows_count))
        cassandra = asyncio.run(copy_cassandra(context.bed, context.scratch, rows_count))
        live = move_there_and_back(context)
        return Outcome(
            rows=[
                *_rows("embedded to embedded", embedded),
                *_rows("Cassandra to Cassandra", cassandra),
                _goodput(live),
                *_pauses(live),
            ],
            charts=over_time(live),
            data={"embedded": embedded._asdict(), "cassandra": cassandra._asdict(), "live": live.to_data()},
            findings=live.findings(),
        )


def _rows(what: str, copied: Copied) -> list[Row]:
    def one(work: str, rate: float, cpu_s: float) -> Row:
        side = Side("mover", Range(rate, rate, rate), cpu_s_per_1000={"mover": cpu_s / copied.rows * 1_000})
        return Row(work, side, unit="rows/s", note=f"{copied.rows / cpu_s:,.0f} rows a second and core of the mover")

    return [
        one(f"copy slots, {what}", copied.rows / copied.copy_s, copied.copy_cpu_s),
        one(f"read back and compare, {what}", copied.rows / copied.verify_s, copied.verify_cpu_s),
    ]


def _goodput(live: Live) -> Row:
    rest = live.during(None)
    shares = [live.goodput(phase) for phase in live.phases]
    moving = [call for phase in live.phases for call in live.during(phase)]
    p99 = quantile(moving, 0.99)
    return Row(
        "calls while slots move, 3 -> 4 -> 3 shards, open loop at half capacity",
        Side("moving", _one(live.rate * min(shares)), p99_ms=_one(p99), errors=live.errors()),
        Side("at rest", _one(live.rate * live.goodput(None)), p99_ms=_one(quantile(rest, 0.99))),
        ratio=Range(min(shares), min(shares), max(shares)),
        ratio_of="goodput",
        target=0.8,
        unit="calls/s",
    )


def _pauses(live: Live) -> list[Row]:
    """The longest that an order waits because its slot moves; bounds, of a histogram."""
    p99_ms = max((phase.paused.p99_ms for phase in live.phases), default=0.0)
    max_ms = max((phase.paused.max_ms for phase in live.phases), default=0.0)

    def one(work: str, ms: float, most_ms: float) -> Row:
        side = Side("at most", _one(ms))
        return Row(
            work, side, unit="ms", ratio=_one(ms / most_ms), ratio_of=f"{most_ms:,.0f} ms", target=1.0, at_most=True
        )

    return [
        one("a slot that moves is not served for, 99 of 100", p99_ms, PAUSE_P99_MS),
        one("a slot that moves is not served for, the longest", max_ms, PAUSE_MAX_MS),
    ]


def over_time(live: Live) -> list[Chart]:
    """Returns rate, latency and moved slots over the same seconds, with the moves marked."""
    seconds = range(max(1, int(max((call.at_s for call in live.calls), default=0))))  # whole ones
    by_second = {second: [call for call in live.calls if int(call.at_s) == second] for second in seconds}
    x = [float(second) for second in seconds]
    events = [Event(phase.began_s, f"{phase.name} begins") for phase in live.phases]
    events += [Event(phase.ended_s, f"{phase.name} is done") for phase in live.phases]
    moved = [(0.0, 0)]
    for phase in live.phases:
        moved += [(phase.began_s, 0), *phase.moved]
    moved.append((x[-1], moved[-1][1]))  # over the same seconds as the others
    return [
        Chart(
            "Calls answered while slots move",
            "Calls are made at a fixed rate, whoever waits. The line should not notice that slots move.",
            "line",
            "seconds",
            "calls answered a second",
            [Series("answered", list(x), [float(sum(not call.error for call in by_second[s])) for s in seconds])],
            events=events,
        ),
        Chart(
            "Waiting while slots move",
            "The time that callers waited, from when the call was due. A slot that moves is paused for a moment.",
            "line",
            "seconds",
            "milliseconds",
            [
                Series("p50", list(x), [quantile(by_second[s], 0.5) for s in seconds]),
                Series("p99", list(x), [quantile(by_second[s], 0.99) for s in seconds]),
            ],
            log_y=True,
            events=events,
        ),
        Chart(
            "Slots moved",
            "Slots of the present move, or of the last one, that their new shard serves.",
            "step",
            "seconds",
            "slots",
            [Series("moved", [at for at, _ in moved], [float(slots) for _, slots in moved])],
            events=events,
        ),
    ]


def _one(value: float) -> Range:
    return Range(value, value, value)


PART: Final = RebalancePart()
