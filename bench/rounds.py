"""One round of load against one subject, and the warm-up before the first: who spent what while so many were answered.

Subjects take turns, one is loaded at a time, and neighbouring rounds are compared with each other.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from bench import ghz, load, machine
from bench.driver import Driver
from bench.parts import Context
from bench.subjects import Subject
from bench.summary import Round, measure, settled

RATE_MIN: Final = 12_000
"""Orders a second that the messages of a first round allow for: a slow warm-up must not leave it short of them."""

RESERVE: Final = 1.6
"""Messages made for a round, over those that the rate seen so far would use up."""

ENDLESS_MESSAGES: Final = 20_000
"""Of a file whose messages may be sent again: reads."""

WARM_WINDOW_S: Final = 2.5
WARM_WINDOWS_MAX: Final = 8
WARM_WINDOWS_QUIET: Final = 2
WARM_SLACK: Final = 0.05

OTHERS_MAX: Final = 0.3
"""A round in which anything else kept more cores than this busy is made again, once."""


class Plan(NamedTuple):
    """How much is measured."""

    rounds: int
    round_s: float
    warm_windows_max: int
    warm_window_s: float
    repeats_max: int
    callers: int = 256
    connections: int = 16

    @classmethod
    def of(cls, context: Context) -> Plan:
        """Returns the plan of figures, or of a look."""
        if context.is_quick:
            return cls(1, 3.0, 2, 2.0, 0)
        return cls(5, 4.0, WARM_WINDOWS_MAX, WARM_WINDOW_S, 1)


class Loaded(Protocol):
    """Something that can be put under load for a while."""

    name: str

    def fire(self, seconds: float) -> Round:
        """Returns the figures of one round."""


class ByGhz:
    """A subject under ghz. ``pace`` closed loop, unless ``rate`` is given."""

    def __init__(  # what makes one load different from another
        self,
        context: Context,
        subject: Subject,
        *,
        name: str = "",
        kind: load.Kind = load.CREATE,
        callers: int = 256,
        connections: int = 16,
    ) -> None:
        self.name = name or subject.name
        self.subject = subject
        self.acknowledged = 0
        self._context = context
        self._kind = kind
        self._callers = callers
        self._connections = connections
        self._rate = float(RATE_MIN)

    def fire(self, seconds: float, rate: int | None = None) -> Round:
        """Closed loop, or ``rate`` calls a second whatever becomes of them. Raises ``GhzError``."""
        per_call = self._kind.orders_per_call
        ports = len(self.subject.endpoints)
        count = ENDLESS_MESSAGES
        if self._kind.is_write:
            calls = (rate or self._rate / per_call) * seconds * RESERVE
            count = min(int(calls / ports) + self._callers, load.MESSAGES_MAX // per_call)
        files = [self._context.scratch / f"messages-{index}.bin" for index in range(ports)]
        for file in files:
            load.write_messages(file, count, self._context.chance, self._kind)
        pace = ghz.Pace(self._callers, self._connections, seconds, rate)
        with _meter(self._context, self.subject.cpu_s) as spent:
            shot = ghz.fire(self.subject.endpoints, files, self._kind.method, pace, self._context.scratch)
            spent.note("generator", shot.cpu_s)
        window_s, calls_per_s, p50_ms, p99_ms = measure(shot.calls)
        codes = Counter(call.code for calls in shot.calls for call in calls)
        orders = codes.pop("OK", 0) * per_call
        self.acknowledged += orders
        if rate is None:
            self._rate = max(self._rate, calls_per_s * per_call)
        return Round(
            subject=self.name,
            loop="closed" if rate is None else "open",
            orders=orders,
            window_s=window_s,
            orders_per_s=calls_per_s * per_call,
            p50_ms=p50_ms,
            p99_ms=p99_ms,
            errors=dict(codes),
            repeated=sum(max(0, len(calls) - count) for calls in shot.calls) if self._kind.is_write else 0,
            cpu_s=spent.cpu_s,
            others_cores=spent.others_cores,
        )


class ByDriver:
    """A subject under a process of ours; without a subject the process is what is measured."""

    def __init__(self, context: Context, driver: Driver, subject: Subject | None) -> None:
        self.name = driver.name
        self.subject = subject
        self._context = context
        self._driver = driver

    def fire(self, seconds: float) -> Round:
        """As the process was told by its command line. Raises ``DriverError``."""
        server = self._driver.cpu_s if self.subject is None else self.subject.cpu_s
        before_s = self._driver.cpu_s()
        with _meter(self._context, server) as spent:
            answer = self._driver.run(seconds)
            if self.subject is not None:
                spent.note("generator", self._driver.cpu_s() - before_s)
        return Round(
            subject=self.name,
            loop="closed",
            orders=int(answer["rows"]),
            window_s=answer["seconds"],
            orders_per_s=answer["rows"] / answer["seconds"],
            p50_ms=answer.get("p50_ms", 0.0),
            p99_ms=answer.get("p99_ms", 0.0),
            errors=answer.get("errors", {}),
            repeated=0,
            cpu_s=spent.cpu_s,
            others_cores=spent.others_cores,
        )


def warm(context: Context, loaded: Loaded, plan: Plan, *, quiet_windows: int = WARM_WINDOWS_QUIET) -> list[float]:
    """Loads a subject until the processor time of an order stops falling; returns that of each window, in ms.

    A JVM that has just started costs three times as much as a warm one, and it warms up for each kind of statement.
    """
    costs: list[float] = []
    while len(costs) < plan.warm_windows_max and not settled(costs, WARM_SLACK, quiet_windows):
        done = loaded.fire(plan.warm_window_s)
        costs.append(work_s(done.cpu_s) / max(1, done.orders) * 1e3)
    context.tell(f"{loaded.name}: warm, CPU an order {costs[0]:.3f} -> {costs[-1]:.3f} ms")
    return costs


def take_turns(context: Context, subjects: Sequence[Loaded], plan: Plan) -> dict[str, list[Round]]:
    """Returns the rounds of each by name. Each round has them in the opposite order of the one before."""
    found: dict[str, list[Round]] = {one.name: [] for one in subjects}
    for number in range(plan.rounds):
        for one in subjects if number % 2 == 0 else reversed(subjects):
            done = undisturbed(context, lambda one=one: one.fire(plan.round_s), plan)  # type: ignore[misc]  # bound early
            found[one.name].append(done)
            cost_ms = work_s(done.cpu_s) / max(1, done.orders) * 1e3
            context.tell(
                f"{one.name}, round {number + 1}/{plan.rounds}: {done.orders_per_s:,.0f}/s, p50 {done.p50_ms:.1f} ms, "
                f"p99 {done.p99_ms:.1f} ms, CPU an order {cost_ms:.3f} ms"
            )
    return found


def undisturbed(context: Context, fire: Callable[[], Round], plan: Plan) -> Round:
    """Returns the figures of the first round that nothing else disturbed; the last one counts, whatever it is."""
    for left in reversed(range(plan.repeats_max + 1)):
        done = fire()
        if done.others_cores <= OTHERS_MAX or not left:
            return done
        context.tell(f"{done.subject}: disturbed, {done.others_cores:.1f} cores were busy with something else: again")
    raise AssertionError("the last one counts")


def work_s(cpu_s: Mapping[str, float]) -> float:
    """Returns the processor seconds of all groups but the generator."""
    return sum(spent for group, spent in cpu_s.items() if group != "generator")


class _Spent:
    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}
        self.others_cores = 0.0

    def note(self, group: str, cpu_s: float) -> None:
        self.cpu_s[group] = cpu_s


@contextlib.contextmanager
def _meter(context: Context, server_cpu_s: Callable[[], float]) -> Iterator[_Spent]:
    """Notes what each group spends inside."""
    spent = _Spent()
    bed = context.bed
    nodes_before = bed.cpu_s() if bed else {}
    server_before, busy_before, began = server_cpu_s(), machine.busy_s(), time.monotonic()
    yield spent
    took_s = time.monotonic() - began
    spent.note("server", server_cpu_s() - server_before)
    for group, cpu_s in (bed.cpu_s() if bed else {}).items():
        spent.note(group, cpu_s - nodes_before[group])
    busy_s = machine.busy_s() - busy_before
    spent.others_cores = max(0.0, (busy_s - sum(spent.cpu_s.values())) / took_s)
