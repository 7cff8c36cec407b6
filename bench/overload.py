"""What becomes of the service when it is offered more than it can do: once, twice, five and ten times its capacity.

Its capacity is the highest rate, offered in an open loop for as long as a burst lasts, at which all but one call of a
hundred are answered OK by their deadline (``bench.capacity``). One kind of caller offers the multiples, another one of
critical priority offers the same all the time. Calls have intended starts and a deadline; those not answered OK by then
are no goodput, whatever became of them.
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

from bench import capacity, load, machine, offering
from bench.bed import Bed
from bench.bursts import CALM_TIMES, Burst, charts, label, served
from bench.offering import Flow, Offered, Phase
from bench.parts import Context, Outcome, Row, Side
from bench.rounds import OTHERS_MAX
from bench.subjects import Subject
from bench.summary import Range

WORKERS: Final = 2
TIMES: Final = (1, 2, 5, 10)
DEADLINE_S: Final = 1.0
CALLERS: Final = 256
CRITICAL_SHARE: Final = 0.05
"""Of the capacity, offered by the critical callers in every phase."""

BURST_TRIES: Final = 2
"""A burst in which something else took more than ``OTHERS_MAX`` cores is made again; the last one counts, as it is."""

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
    step_s: float
    calm_s: float
    burst_s: float
    after_s: float
    cost_s: float


FULL: Final = Lengths(6, 6, 6, 2, 30, 7, 4)
QUICK: Final = Lengths(3, 3, 2, 1, 4, 6, 2)


class Costs(NamedTuple):
    """What everything is compared with."""

    closed: float
    """Orders a second of 256 callers that wait for their answers."""
    capacity: float
    """Orders a second, see above."""
    is_borne: bool
    """Whether that was borne for as long as a burst; if not it is what was answered in time of the least that was."""
    brief: float
    """Orders a second that were borne for a few seconds."""
    accept_us: float
    """Processor time of an order, the database's included."""
    refusal_us: float
    rss_mb: float


class Overload:
    """See ``bench.parts.Part``."""

    name = "overload"
    title = "Overload: ten times what it can do"
    needs_bed = True
    budget_s = 390.0

    def run(self, context: Context) -> Outcome:
        """Measures the capacity, then offers its multiples, then counts what a refusal costs."""
        lengths = QUICK if context.is_quick else FULL
        offering.ensure()
        with _crest(context, 11) as crest:
            crest.answer(load.create_request(random.Random(0)))
            closed, accept_us = _closed(context, crest, lengths)
            found = _capacity(context, crest, lengths, closed)
            rss_mb = _rss_mb(crest)
            bursts = [_burst(context, crest, lengths, found.sustained, times) for times in TIMES]
            throttled = _burst(context, crest, lengths, found.sustained, TIMES[-1], is_throttled=True)
        with _crest(context, 31, "--rate-limit=1") as refusing:
            refusing.answer(load.create_request(random.Random(0)))
            refusal_us = _refusal_us(context, refusing, lengths, closed)
        costs = Costs(closed, found.sustained, found.is_borne, found.brief, accept_us, refusal_us, rss_mb)
        return _outcome(costs, [*bursts, throttled])


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


def _closed(context: Context, crest: Subject, lengths: Lengths) -> tuple[float, float]:
    """Returns orders a second with as many callers as ghz has, and the processor time of one in us."""
    callers = Flow(name="closed", targets=crest.endpoints, priority="normal", closed=CALLERS, deadline_s=10.0)
    offering.offer([callers], [Phase("warm", lengths.warm_s)], context.chance)
    before_s = _cpu_s(crest, context.bed)
    done = offering.offer([callers], [Phase("closed", lengths.capacity_s)], context.chance)
    tally = done.flows["closed"][0]
    used_s = _cpu_s(crest, context.bed) - before_s
    rate = tally.ok / lengths.capacity_s
    context.tell(f"{CALLERS} callers in a closed loop: {rate:,.0f} orders/s, p99 {tally.ok_ms.get('p99', 0):.0f} ms")
    return rate, used_s / max(1, tally.ok) * 1e6


def _capacity(context: Context, crest: Subject, lengths: Lengths, closed: float) -> capacity.Capacity:
    def offer(rate: float, seconds: float) -> capacity.Offer:
        flow = Flow(name="steps", targets=crest.endpoints, priority="normal", rate=rate, deadline_s=DEADLINE_S)
        before_s, began_s = machine.busy_s() - _cpu_s(crest, context.bed), time.monotonic()
        done = offering.offer([flow], [Phase("step", seconds)], context.chance)
        others_s = machine.busy_s() - _cpu_s(crest, context.bed) - before_s - done.cpu_s
        tally = done.flows["steps"][0]
        others_cores = max(0.0, others_s / (time.monotonic() - began_s))
        return capacity.Offer(tally.offered / seconds, tally.ok / seconds, tally.ok_ms.get("p99", 0), others_cores)

    return capacity.search(offer, closed, brief_s=lengths.step_s, long_s=lengths.burst_s, tell=context.tell)


def _burst(
    context: Context, crest: Subject, lengths: Lengths, bears: float, times: int, *, is_throttled: bool = False
) -> Burst:
    """Returns what came of one multiple, of the first try that nothing else disturbed."""
    for left in reversed(range(BURST_TRIES)):
        burst = _offered(context, crest, lengths, bears, times, is_throttled=is_throttled)
        if burst.others_cores <= OTHERS_MAX or not left:
            return burst
        context.tell(f"disturbed, {burst.others_cores:.1f} cores were busy with something else: again")
    raise AssertionError("the last one counts")


def _offered(
    context: Context, crest: Subject, lengths: Lengths, bears: float, times: int, *, is_throttled: bool
) -> Burst:
    flows = [
        Flow(
            name="shop",
            targets=crest.endpoints,
            priority="normal",
            rate=bears * (1 - CRITICAL_SHARE),
            deadline_s=DEADLINE_S,
            throttle=THROTTLE if is_throttled else 0.0,
        ),
        Flow(
            name="payments",
            targets=crest.endpoints,
            priority="critical",
            rate=bears * CRITICAL_SHARE,
            is_steady=True,
            deadline_s=DEADLINE_S,
        ),
    ]
    phases = [
        Phase("calm", lengths.calm_s, CALM_TIMES),
        Phase("burst", lengths.burst_s, times),
        Phase("after", lengths.after_s, CALM_TIMES),
    ]
    before_s, database_s, busy_s = crest.cpu_s(), _database_s(context.bed), machine.busy_s()
    began_s = time.monotonic()
    done = offering.offer(flows, phases, context.chance)
    took_s = time.monotonic() - began_s
    used_s, database_s = crest.cpu_s() - before_s, _database_s(context.bed) - database_s
    others_s = machine.busy_s() - busy_s - used_s - database_s - done.cpu_s
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
        database_cpu_s=database_s,
        generator_cpu_s=done.cpu_s,
        others_cores=max(0.0, others_s / took_s),
        behind_ms=rest.behind_ms.get("p99", 0.0),
    )
    context.tell(
        f"{label(burst):<26} {burst.goodput:>7,.0f}/s of {burst.offered:>8,.0f}/s, "
        f"p99 {rest.ok_ms.get('p99', 0):.0f} ms, critical {served(critical):.2%}, after it {burst.recovered:.1%}; "
        f"{_shares(burst)}"
    )
    return burst


def _refusal_us(context: Context, crest: Subject, lengths: Lengths, closed: float) -> float:
    """Returns the service's processor time of a refusal in us, from a caller who has used up its rate."""
    flow = Flow(name="flood", targets=crest.endpoints, priority="low", rate=3 * closed, deadline_s=DEADLINE_S)
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


def _outcome(costs: Costs, bursts: Sequence[Burst]) -> Outcome:
    peak = max(costs.capacity, *(burst.goodput for burst in bursts))
    most = Side("most it ever did, or all that was offered", _alone(peak))
    rows: list[Row] = []
    for burst in bursts:
        ours = Side(
            label(burst),
            _alone(burst.goodput),
            p50_ms=_alone(burst.rest.ok_ms.get("p50", 0.0)),
            p99_ms=_alone(burst.rest.ok_ms.get("p99", 0.0)),
            errors={name: count for name, count in burst.rest.outcomes.items() if name != "OK"},
        )
        rows.append(
            Row(
                f"goodput, {label(burst)}",
                ours,
                most,
                _alone(burst.goodput / min(peak, burst.offered)),
                "goodput",
                GOODPUT_MIN[burst.times],
                note=f"critical callers {served(burst.critical):.2%} served, "
                f"{burst.recovered:.1%} of all {RECOVERY_S} s after it; {_shares(burst)}",
            )
        )
    worst = max(burst.rest.ok_ms.get("p99", 0.0) for burst in bursts)
    rows += [
        _row("p99 of accepted calls over their deadline", worst / (DEADLINE_S * 1000), 1.0, at_most=True),
        _row("critical callers served, the worst", min(served(one.critical) for one in bursts), CRITICAL_MIN),
        _row(f"served again {RECOVERY_S} s after a burst, the worst", min(b.recovered for b in bursts), RECOVERED_MIN),
        _row(
            "a refusal over an accepted call, processor time",
            costs.refusal_us / costs.accept_us,
            REFUSAL_MAX,
            at_most=True,
        ),
        _row("memory after ten times over after twice", bursts[-1].rss_mb / bursts[1].rss_mb, MEMORY_MAX, at_most=True),
    ]
    return Outcome(rows, charts(bursts, costs.capacity), _data(costs, bursts), _findings(rows, costs))


def _row(work: str, value: float, target: float, *, at_most: bool = False) -> Row:
    side = Side("crest", _alone(value))
    return Row(work, side, None, _alone(value), "share", target, at_most=at_most, unit="")


def _shares(burst: Burst) -> str:
    """Says who took how many cores, over the calm around the burst as well."""
    length_s = len(burst.seconds)
    cores = {
        "service": burst.server_cpu_s / length_s,
        "database": burst.database_cpu_s / length_s,
        "generator": burst.generator_cpu_s / length_s,
        "others": burst.others_cores,
    }
    told = ", ".join(f"{name} {share:.2f}" for name, share in cores.items())
    return f"cores: {told}; the generator came to a call {burst.behind_ms:.0f} ms late (p99)"


def _findings(rows: Sequence[Row], costs: Costs) -> list[str]:
    bears = (
        f"the highest rate tried of which {capacity.IN_TIME_MIN:.0%} were answered within {DEADLINE_S:g} s"
        if costs.is_borne
        else "what was answered in time of the least that was tried, and no rate tried was borne"
    )
    told = (
        f"Capacity: {costs.capacity:,.0f} orders/s, {bears} for as long as a burst; for seconds it bore "
        f"{costs.brief:,.0f}, and {CALLERS} callers in a closed loop had {costs.closed:,.0f}. An order took "
        f"{costs.accept_us:.0f} us of service and database there, a refusal {costs.refusal_us:.0f} of the service."
    )
    found = [told]
    missed = [row.work for row in rows if row.reached is False]
    if missed:
        why = (
            "Server, database and generator share the cores: at k times the capacity, a call refused at r of the cost "
            "of one served leaves (1 - k r) / (1 - r) of the capacity, less what offering costs."
        )
        found += [f"Not reached: {'; '.join(missed)}.", why]
    return found


def _data(costs: Costs, bursts: Sequence[Burst]) -> dict[str, object]:
    return costs._asdict() | {"deadline_s": DEADLINE_S, "bursts": [burst._asdict() for burst in bursts]}


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
    return crest.cpu_s() + _database_s(bed)


def _database_s(bed: Bed | None) -> float:
    return 0.0 if bed is None else bed.cpu_s()["cassandra"]


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
