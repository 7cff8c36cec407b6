"""What becomes of the service when it is offered more than it can do: once, twice, five and ten times its capacity.

One kind of caller offers the multiples, another one of critical priority offers the same all the time. Calls have
intended starts and a deadline; those that are not answered OK by then are no goodput, whatever became of them.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench import load, offering
from bench.bed import Bed
from bench.offering import Flow, Offered, Phase, Tally
from bench.parts import Chart, Context, Event, Outcome, Row, Series, Side
from bench.subjects import Subject
from bench.summary import Range

WORKERS: Final = 2
TIMES: Final = (1, 2, 5, 10)
DEADLINE_S: Final = 1.0
CALLERS: Final = 256
CRITICAL_SHARE: Final = 0.05
"""Of the capacity, offered by the critical callers in every phase."""

CALM_TIMES: Final = 0.7
"""What is offered before and after a burst, of the capacity."""

RECOVERY_S: Final = 5
"""By then after a burst the service answers again what is offered."""

GOODPUT_MIN: Final = {1: 0.95, 2: 0.95, 5: 0.9, 10: 0.9}
CRITICAL_MIN: Final = 0.995
RECOVERED_MIN: Final = 0.95
REFUSAL_MAX: Final = 0.1
MEMORY_MAX: Final = 1.1

THROTTLE: Final = 2.0
"""The K of callers that hold back (clients/throttle.py)."""


class Lengths(NamedTuple):
    """Seconds of each phase."""

    warm_s: float
    capacity_s: float
    calm_s: float
    burst_s: float
    after_s: float
    cost_s: float


FULL: Final = Lengths(6, 10, 2, 30, 7, 4)
QUICK: Final = Lengths(3, 4, 1, 4, 6, 2)


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
    generator_cpu_s: float


class Overload:
    """See ``bench.parts.Part``."""

    name = "overload"
    title = "Overload: ten times what it can do"
    needs_bed = True
    budget_s = 230.0

    def run(self, context: Context) -> Outcome:
        """Measures the capacity, then offers its multiples, then counts what a refusal costs."""
        lengths = QUICK if context.is_quick else FULL
        offering.ensure()
        with _crest(context, 11) as crest:
            crest.answer(load.create_request(random.Random(0)))
            capacity, accept_us = _capacity(context, crest, lengths)
            rss_mb = _rss_mb(crest)
            bursts = [_burst(context, crest, lengths, capacity, times) for times in TIMES]
            throttled = _burst(context, crest, lengths, capacity, TIMES[-1], is_throttled=True)
        with _crest(context, 31, "--rate-limit=1") as refusing:
            refusing.answer(load.create_request(random.Random(0)))
            refusal_us = _refusal_us(context, refusing, lengths, capacity)
        return _outcome(capacity, accept_us, refusal_us, rss_mb, [*bursts, throttled])


PART: Final = Overload()


def _crest(context: Context, offset: int, *flags: str) -> Subject:
    host, port = context.host, context.port + offset
    command = [sys.executable, "-m", "server"]
    if context.bed is not None:
        command.append(f"--config={context.bed.server_settings}")
    command += [f"--host={host}", f"--port={port}", f"--metrics-port={port - 1}", f"--workers={WORKERS}"]
    command += [f"--data-dir={context.scratch / f'data-{port}'}", *flags]
    endpoints = [f"{host}:{port + 1 + worker}" for worker in range(WORKERS)]
    return Subject("crest", [command], endpoints, context.scratch / f"overload-{port}.log")


def _capacity(context: Context, crest: Subject, lengths: Lengths) -> tuple[float, float]:
    """Returns orders a second with as many callers as ghz has, and the service's own processor time of one in us."""
    callers = Flow(name="closed", targets=crest.endpoints, priority="normal", closed=CALLERS, deadline_s=10.0)
    offering.offer([callers], [Phase("warm", lengths.warm_s)], context.chance)
    before_s = _cpu_s(crest, context.bed)
    done = offering.offer([callers], [Phase("capacity", lengths.capacity_s)], context.chance)
    tally = done.flows["closed"][0]
    used_s = _cpu_s(crest, context.bed) - before_s
    capacity = tally.ok / lengths.capacity_s
    context.tell(f"capacity {capacity:,.0f} orders/s, p99 {tally.ok_ms.get('p99', 0):.0f} ms")
    return capacity, used_s / max(1, tally.ok) * 1e6


def _burst(
    context: Context, crest: Subject, lengths: Lengths, capacity: float, times: int, *, is_throttled: bool = False
) -> Burst:
    flows = [
        Flow(
            name="shop",
            targets=crest.endpoints,
            priority="normal",
            rate=capacity * (1 - CRITICAL_SHARE),
            deadline_s=DEADLINE_S,
            throttle=THROTTLE if is_throttled else 0.0,
        ),
        Flow(
            name="payments",
            targets=crest.endpoints,
            priority="critical",
            rate=capacity * CRITICAL_SHARE,
            is_steady=True,
            deadline_s=DEADLINE_S,
        ),
    ]
    phases = [
        Phase("calm", lengths.calm_s, CALM_TIMES),
        Phase("burst", lengths.burst_s, times),
        Phase("after", lengths.after_s, CALM_TIMES),
    ]
    before_s = crest.cpu_s()
    done = offering.offer(flows, phases, context.chance)
    used_s = crest.cpu_s() - before_s
    rest, critical = done.flows["shop"][1], done.flows["payments"][1]
    after = [*zip(done.flows["shop"][2].slices, done.flows["payments"][2].slices, strict=False)][RECOVERY_S:]
    burst = Burst(
        times=times,
        is_throttled=is_throttled,
        goodput=(rest.ok + critical.ok) / lengths.burst_s,
        offered=(rest.offered + critical.offered) / lengths.burst_s,
        rest=rest,
        critical=critical,
        seconds=_by_second(done),
        recovered=min(((a.ok + b.ok) / max(1, a.offered + b.offered) for a, b in after), default=0.0),
        rss_mb=_rss_mb(crest),
        server_cpu_s=used_s,
        generator_cpu_s=done.cpu_s,
    )
    context.tell(
        f"{_label(burst):<26} {burst.goodput:>7,.0f}/s of {burst.offered:>8,.0f}/s, "
        f"p99 {rest.ok_ms.get('p99', 0):.0f} ms, critical {_served(critical):.2%}, after it {burst.recovered:.1%}"
    )
    return burst


def _refusal_us(context: Context, crest: Subject, lengths: Lengths, capacity: float) -> float:
    """Returns the service's processor time of a refusal in us, from a caller who has used up its rate."""
    flow = Flow(name="flood", targets=crest.endpoints, priority="low", rate=3 * capacity, deadline_s=DEADLINE_S)
    offering.offer([flow], [Phase("warm", 1.0)], context.chance)
    before_s, began_s = crest.cpu_s(), time.monotonic()
    done = offering.offer([flow], [Phase("cost", lengths.cost_s)], context.chance)
    used_s, took_s = crest.cpu_s() - before_s, time.monotonic() - began_s
    before_s = crest.cpu_s()
    time.sleep(1.0)  # sleep: what the service uses by itself in that time is no part of a refusal
    idle_s = crest.cpu_s() - before_s
    refused = done.calls - done.flows["flood"][0].ok
    cost_us = (used_s - idle_s * took_s) / max(1, refused) * 1e6
    context.tell(f"a refusal costs the service {cost_us:.0f} us")
    return cost_us


def _outcome(capacity: float, accept_us: float, refusal_us: float, rss_mb: float, bursts: Sequence[Burst]) -> Outcome:
    peak = max(capacity, *(burst.goodput for burst in bursts))
    most = Side("most it ever did", _alone(peak))
    rows: list[Row] = []
    for burst in bursts:
        ours = Side(
            _label(burst),
            _alone(burst.goodput),
            p50_ms=_alone(burst.rest.ok_ms.get("p50", 0.0)),
            p99_ms=_alone(burst.rest.ok_ms.get("p99", 0.0)),
            errors={name: count for name, count in burst.rest.outcomes.items() if name != "OK"},
        )
        rows.append(
            Row(
                f"goodput, {_label(burst)}",
                ours,
                most,
                _alone(burst.goodput / peak),
                "goodput",
                GOODPUT_MIN[burst.times],
                note=f"critical callers {_served(burst.critical):.2%} served, "
                f"{burst.recovered:.1%} of all {RECOVERY_S} s after it",
            )
        )
    worst = max(burst.rest.ok_ms.get("p99", 0.0) for burst in bursts)
    rows += [
        _row("p99 of accepted calls over their deadline", worst / (DEADLINE_S * 1000), 1.0, at_most=True),
        _row("critical callers served, the worst", min(_served(one.critical) for one in bursts), CRITICAL_MIN),
        _row(f"served again {RECOVERY_S} s after a burst, the worst", min(b.recovered for b in bursts), RECOVERED_MIN),
        _row("a refusal over an accepted call, processor time", refusal_us / accept_us, REFUSAL_MAX, at_most=True),
        _row("memory after ten times over after twice", bursts[-1].rss_mb / bursts[1].rss_mb, MEMORY_MAX, at_most=True),
    ]
    return Outcome(
        rows, _charts(bursts, capacity), _data(capacity, accept_us, refusal_us, rss_mb, bursts), _findings(rows)
    )


def _row(work: str, value: float, target: float, *, at_most: bool = False) -> Row:
    side = Side("crest", _alone(value))
    return Row(work, side, None, _alone(value), "share", target, at_most=at_most, unit="")


def _findings(rows: Sequence[Row]) -> list[str]:
    missed = [row.work for row in rows if row.reached is False]
    if not missed:
        return []
    why = (
        "Server and generator share the cores: at k times the capacity, a call refused at r of the cost of one served "
        "leaves (1 - k r) / (1 - r) of the capacity, less what offering costs."
    )
    return [f"Not reached: {'; '.join(missed)}.", why]


def _charts(bursts: Sequence[Burst], capacity: float) -> list[Chart]:
    plain = [burst for burst in bursts if not burst.is_throttled]
    calm_s = len(bursts[0].seconds) - len(bursts[0].rest.slices)
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
            Series(_label(burst), [float(second) for second in range(len(burst.seconds))], list(burst.seconds))
            for burst in bursts
        ],
        events=[Event(float(max(1, min(calm_s, 2))), "the burst begins")],
        limit=capacity,
        limit_text="capacity",
    )
    return [goodput, seconds]


def _data(
    capacity: float, accept_us: float, refusal_us: float, rss_mb: float, bursts: Sequence[Burst]
) -> dict[str, object]:
    return {
        "capacity": capacity,
        "accept_us": accept_us,
        "refusal_us": refusal_us,
        "rss_mb": rss_mb,
        "deadline_s": DEADLINE_S,
        "bursts": [burst._asdict() for burst in bursts],
    }


def _label(burst: Burst) -> str:
    return f"{burst.times} times its capacity" + (", callers hold back" if burst.is_throttled else "")


def _served(tally: Tally) -> float:
    return tally.ok / max(1, tally.offered)


def _alone(value: float) -> Range:
    return Range(value, value, value)


def _by_second(done: Offered) -> list[float]:
    """Returns the goodput of each whole second, all flows together."""
    seconds: list[float] = []
    for phase in range(len(done.flows["shop"])):
        whole = int(done.flows["shop"][phase].seconds)
        for second in range(whole):
            slices = (tallies[phase].slices for tallies in done.flows.values())
            seconds.append(float(sum(one[second].ok for one in slices if second < len(one))))
    return seconds


def _rss_mb(crest: Subject) -> float:
    return sum(float(process.memory_info().rss) for process in crest.processes()) / 1e6


def _cpu_s(crest: Subject, bed: Bed | None) -> float:
    """Returns the processor time spent on orders so far: by the service and, where there is one, by its database."""
    return crest.cpu_s() + (0.0 if bed is None else bed.cpu_s()["cassandra"])


def main(tell: Callable[[str], None]) -> None:
    """Runs the part by itself, on the embedded store."""
    is_quick = "--quick" in sys.argv
    with contextlib.ExitStack() as stack:
        results = Path(__file__).resolve().parent / "results"
        scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=results, prefix="run-"))
        context = Context(Path(scratch), "127.0.0.26", 21_600, is_quick, random.Random(), tell, None)
        outcome = PART.run(context)
    for row in outcome.rows:
        assert row.ratio is not None
        reached = "" if row.reached is None else "  reached" if row.reached else "  MISSED"
        tell(f"{row.work:<60} {row.ratio.median:8.3f} of {row.target:g}{reached}")
    for finding in outcome.findings:
        tell(finding)


if __name__ == "__main__":
    main(print)
