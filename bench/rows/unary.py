"""CreateOrder, one order a call, against services that others would write on the same database."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from bench import figures, load, subjects
from bench.installed import InstallError
from bench.parts import GROUPS, Chart, Context, Outcome, Row, Series
from bench.rounds import ByGhz, Plan, take_turns, warm
from bench.subjects import Subject, SubjectError
from bench.summary import Round

TARGETS: Final[Mapping[str, float]] = {"go-once": 6.0, "go-plain": 2.0, "naive": 5.0}
"""Our rate over theirs, at least."""

GUARANTEES: Final[Mapping[str, str]] = {
    "go-once": "Gives the same guarantee.",
    "go-plain": "A retry can make a second order.",
    "naive": "A retry can make a second order.",
}

CROWD: Final = 1_024
"""Callers of the second comparison: what is peculiar to a peak is how many ask at once."""

PATIENT_WINDOWS_MAX: Final = 20
PATIENT_WINDOWS_QUIET: Final = 3

_CURVE_SHARES: Final = (0.1, 0.3, 0.5, 0.65, 0.8, 0.9, 1.0)
_CURVE_SHARES_QUICK: Final = (0.25, 1.0)
_CURVE_S: Final = 2.0
_CURVE_STEP: Final = 1.3
_CURVE_STEPS_MAX: Final = 5
"""Beyond the capacity of the closed loop the rate is raised by this much, so often at most..."""

_FULL: Final = 0.9
"""...and until less than this share of what is offered is done: then the service is full, and the curve is whole."""


class Offered(Protocol):
    """Something that can be put under an open loop."""

    name: str

    def fire(self, seconds: float, rate: int | None = None) -> Round:
        """Returns the figures of one run at a rate; of a closed loop without one."""


class Unary:
    """See ``bench.parts.Part``."""

    name = "unary"
    title = "One order a call"
    needs_bed = True
    budget_s = 600.0

    def run(self, context: Context) -> Outcome:
        """Rounds in turn, and in a crowd; then an open loop from a tenth of each one's capacity until it is full."""
        plan = Plan.of(context)
        with contextlib.ExitStack() as stack:
            services, findings = [crest_on(context, stack)], []
            for name, make in self._peers(context).items():
                try:
                    services.append(started(stack, make))
                except (InstallError, SubjectError) as error:
                    findings.append(f"{name} could not be compared: {error}")
                    context.tell(findings[-1])
            loaded = [ByGhz(context, one) for one in services]
            # the first to load the nodes: what their JVMs compile late, they compile here
            patient = plan if context.is_quick else plan._replace(warm_windows_max=PATIENT_WINDOWS_MAX)
            for one in loaded:
                warm(context, one, patient, quiet_windows=PATIENT_WINDOWS_QUIET)
            rounds = take_turns(context, loaded, plan)
            crowd = in_a_crowd(context, services, plan)
            # without the slowest peer, for time
            points = curves(context, [one for one in loaded if one.name != "naive"], rounds)
        rows = [
            self._row(name, found, callers)
            for callers, found in ((plan.callers, rounds), (CROWD, crowd))
            for name in TARGETS
            if name in found
        ]
        charts = [
            rates(f"Orders a second, {plan.callers} callers", rounds),
            rates(f"Orders a second, {CROWD:,} callers", crowd),
            costs(f"What an order costs, {plan.callers} callers", rounds),
            *latency(points),
        ]
        offered = {name: [one for _, one in some] for name, some in points.items()}
        kept = rounds | _tagged(f"{CROWD:,} callers", crowd) | _tagged("open loop", offered)
        return Outcome(
            rows,
            charts,
            {"rounds": {name: [one._asdict() for one in some] for name, some in kept.items()}},
            findings,
        )

    @staticmethod
    def _peers(context: Context) -> dict[str, Callable[[], Subject]]:
        host, port, scratch, bed = context.host, context.port, context.scratch, context.bed
        assert bed is not None
        return {
            "go-once": lambda: subjects.go("once", host, port + 50, scratch, bed),
            "go-plain": lambda: subjects.go("plain", host, port + 60, scratch, bed),
            "naive": lambda: subjects.naive(host, port + 70, subjects.CORES, scratch, bed),
        }

    @staticmethod
    def _row(name: str, rounds: Mapping[str, Sequence[Round]], callers: int) -> Row:
        return figures.row(
            f"unary CreateOrder by ghz, {callers:,} callers",
            ("crest", rounds["crest"]),
            (name, rounds[name]),
            target=None if callers == CROWD else TARGETS[name],
            note=GUARANTEES[name],
        )


def crest_on(
    context: Context, stack: contextlib.ExitStack, workers: int = subjects.WORKERS, **settings: object
) -> Subject:
    """Returns Crest, serving on the bed, until the stack ends. Raises ``SubjectError``."""
    server = subjects.crest(
        context.host,
        context.port + 11,
        workers,
        "native",
        context.scratch,
        bed=context.bed,
        settings={name.replace("_", "-"): value for name, value in settings.items()},
    )
    return started(stack, lambda: server)


def started(stack: contextlib.ExitStack, make: Callable[[], Subject]) -> Subject:
    """Returns a subject that answers, until the stack ends. Raises ``InstallError`` and ``SubjectError``."""
    subject = stack.enter_context(make())
    subject.answer(load.create_request(random.Random(0)))
    return subject


def rates(title: str, rounds: Mapping[str, Sequence[Round]], each: str = "order") -> Chart:
    """Returns the rates as bars, the spread of the rounds as whiskers. ``each``: what is counted."""
    sides = [figures.side(name, some) for name, some in rounds.items()]
    bars = Series(
        f"{each}s/s",
        [side.name for side in sides],
        [side.rate.median for side in sides],
        [side.rate.least for side in sides],
        [side.rate.most for side in sides],
    )
    explains = "The median of the rounds; the whisker goes from the slowest to the fastest. Longer is better."
    return Chart(title, explains, "bar", "", f"{each}s/s", [bars])


def costs(title: str, rounds: Mapping[str, Sequence[Round]], each: str = "order") -> Chart:
    """Returns the processor time of an order, or of ``each`` else, by who spent it, as stacked bars."""
    sides = [figures.side(name, some) for name, some in rounds.items()]
    groups = [group for group in GROUPS if any(group in side.cpu_s_per_1000 for side in sides)]
    stacks = [
        Series(group, [side.name for side in sides], [side.cpu_s_per_1000.get(group, 0.0) for side in sides])
        for group in groups
    ]
    explains = (
        f"Processor milliseconds of one {each}, by the processes that spent them; the generator is the load's own "
        "cost. Shorter is better, and this figure hardly depends on what else the machine did."
    )
    return Chart(title, explains, "stack", "", f"processor ms per {each}", stacks)


def latency(curves: Mapping[str, Sequence[tuple[int, Round]]]) -> list[Chart]:
    """Returns the latency over the offered rate, up to saturation: median and 99th percentile."""
    explains = (
        "Calls start at the rate below whether or not earlier ones have ended, from a tenth of what each service did "
        f"for 256 callers until less than {_FULL:.0%} of what is offered gets done: a line ends where the service is "
        "full. Further right and lower is better. Each point is one run of two seconds."
    )
    charts = []
    for title in ("p50", "p99"):
        lines = [
            Series(
                name,
                [float(rate) for rate, _ in points],
                [(one.p50_ms if title == "p50" else one.p99_ms) or None for _, one in points],
            )
            for name, points in curves.items()
        ]
        heading = f"Latency to saturation, {title}"
        charts.append(Chart(heading, explains, "line", "offered orders/s", "ms", lines, log_y=True))
    return charts


def curves(
    context: Context, loaded: Sequence[Offered], rounds: Mapping[str, Sequence[Round]]
) -> dict[str, list[tuple[int, Round]]]:
    """Returns the curve of each subject by its name: the rates offered, ascending, and what came of each.

    It goes from a tenth of the median of ``rounds``, in orders a second, until less than ``_FULL`` of a rate gets done.
    """
    found: dict[str, list[tuple[int, Round]]] = {}
    for one in loaded:
        capacity = sorted(done.orders_per_s for done in rounds[one.name])[len(rounds[one.name]) // 2]
        points = found.setdefault(one.name, [])
        shares = _CURVE_SHARES_QUICK if context.is_quick else _CURVE_SHARES
        for share in (*shares, *(shares[-1] * _CURVE_STEP**step for step in range(1, _CURVE_STEPS_MAX + 1))):
            if share > 1 and points[-1][1].orders_per_s < _FULL * points[-1][0]:
                break
            rate = max(2, int(capacity * share))
            done = one.fire(_CURVE_S, rate)
            points.append((rate, done))
            context.tell(
                f"{one.name} at {rate:,}/s: {done.orders_per_s:,.0f}/s done, p50 {done.p50_ms:.1f} ms, "
                f"p99 {done.p99_ms:.1f} ms"
            )
    return found


def in_a_crowd(context: Context, services: Sequence[Subject], plan: Plan) -> dict[str, list[Round]]:
    """Returns rounds of ``CROWD`` callers of each service by its name, in turn, after one that does not count."""
    loaded = [ByGhz(context, one, callers=CROWD) for one in services]
    for one in loaded:
        one.fire(plan.round_s)
    return take_turns(context, loaded, plan)


def _tagged(tag: str, rounds: Mapping[str, Sequence[Round]]) -> dict[str, Sequence[Round]]:
    return {f"{name}, {tag}": some for name, some in rounds.items()}


PART: Final = Unary()
