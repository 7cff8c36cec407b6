"""The course of a benchmark: both subjects up, warmed, then loaded in turn, never both at once.

Turns alternate in order (A B, B A, ...), so that neither always comes after the other.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench import ghz, load, machine, subjects
from bench.summary import Round, measure

WARM_UP_S: Final = 2.0
RATE_MIN: Final = 12_000
"""Orders a second that the messages of a round allow for at least: a slow warm-up must not leave it short of them."""

RESERVE: Final = 1.6
"""Messages made for a round, over those that the rate seen so far would use up."""

OPEN_LOOP_SHARE: Final = 0.5
"""The open loop runs at this share of Crest's own closed-loop rate: busy, but with room, as an ordinary day is."""


class Plan(NamedTuple):
    """What to run; everything in it is bounded by the command line."""

    host: str
    port: int
    """The shared port of the first subject; 100 further on lie those of the second."""
    workers: int
    callers: int
    connections: int
    closed_rounds: int
    open_rounds: int
    round_s: float
    others_max: float
    """A round in which anything else kept more cores than this busy is made again."""
    repeats_max: int
    """So often at most; the last one counts, whatever it is."""

    @property
    def steps(self) -> int:
        """How often ``tell`` is called for one transport."""
        return 2 * (1 + self.closed_rounds + self.open_rounds)


class Result(NamedTuple):
    """What came of one transport."""

    transport: str
    rounds: list[Round]
    """Those that count, in order."""
    acknowledged: int
    """Orders that Crest acknowledged, the warm-up included."""
    stored: int
    """Orders found in a backup of its store afterwards; more where a call ended without an answer, never fewer."""


Tell = Callable[[str, Round | None], None]
"""Told what comes next (with None), and what came of it."""


def run(plan: Plan, transport: str, scratch: Path, chance: random.Random, tell: Tell) -> Result:
    """Runs every round on one transport. Raises ``GhzError`` and ``SubjectError``."""
    with _both(plan, transport, scratch) as pair:
        volley = _Volley(plan, transport, scratch, chance, tell)
        for subject in pair:
            volley.fire(subject, "warm-up", WARM_UP_S)
        rounds: list[Round] = []
        for number in range(plan.closed_rounds):
            rounds += [volley.fire(subject, "closed", plan.round_s) for subject in _turn(pair, number)]
        rate = open_loop_rate(rounds)
        for number in range(plan.open_rounds if rate else 0):
            rounds += [volley.fire(subject, "open", plan.round_s, rate) for subject in _turn(pair, number)]
        stored = subjects.stored_orders(transport, scratch)
    return Result(transport, rounds, volley.acknowledged, stored)


def open_loop_rate(rounds: Sequence[Round]) -> int:
    """Returns the calls a second of the open loop, from Crest's closed-loop rounds; 0 when none answered."""
    rates = [one.orders_per_s for one in rounds if one.subject == "crest" and one.loop == "closed"]
    return int(statistics.median(rates) * OPEN_LOOP_SHARE) if rates else 0


@contextlib.contextmanager
def _both(plan: Plan, transport: str, scratch: Path) -> Iterator[tuple[subjects.Subject, subjects.Subject]]:
    """Crest, and the empty peer answering what Crest answered: the same bytes, so the same work for ghz."""
    with subjects.crest(plan.host, plan.port, plan.workers, transport, scratch) as crest:
        answer = crest.answer(load.create_request(random.Random(0)))
        with subjects.empty(plan.host, plan.port + 100, plan.workers, transport, scratch, answer) as empty:
            empty.answer(load.create_request(random.Random(0)))
            yield crest, empty


def _turn(pair: tuple[subjects.Subject, subjects.Subject], number: int) -> tuple[subjects.Subject, subjects.Subject]:
    return pair if number % 2 == 0 else (pair[1], pair[0])


class _Volley:
    """Fires rounds, remembering how fast each subject was, so that the messages suffice."""

    def __init__(self, plan: Plan, transport: str, scratch: Path, chance: random.Random, tell: Tell) -> None:
        self._rates: defaultdict[str, float] = defaultdict(lambda: RATE_MIN)
        self.acknowledged = 1  # the one by which we saw that it serves
        self._plan = plan
        self._transport = transport
        self._scratch = scratch
        self._chance = chance
        self._tell = tell

    def fire(self, subject: subjects.Subject, loop: str, duration_s: float, rate: int | None = None) -> Round:
        """Returns the figures of one round against one subject, the first one that nothing else disturbed."""
        what = f"{self._transport} {subject.name} {loop}"
        for left in reversed(range(self._plan.repeats_max + 1)):
            self._tell(what, None)
            done = self._once(subject, loop, duration_s, rate)
            if subject.name == "crest":
                self.acknowledged += done.orders - done.repeated
            if rate is None:
                self._rates[subject.name] = max(self._rates[subject.name], done.orders_per_s)
            if done.others_cores <= self._plan.others_max or loop == "warm-up" or left == 0:
                self._tell(what, done)
                return done
            self._tell(f"{what} (disturbed, {done.others_cores:.1f} cores: again)", None)
        raise AssertionError("the last one counts")

    def _once(self, subject: subjects.Subject, loop: str, duration_s: float, rate: int | None) -> Round:
        plan = self._plan
        ports = len(subject.endpoints)
        wanted = int((rate or self._rates[subject.name]) * duration_s * RESERVE / ports) + plan.callers
        count = min(wanted, load.MESSAGES_MAX)
        files = [self._scratch / f"messages-{index}.bin" for index in range(ports)]
        for file in files:
            load.write_messages(file, count, self._chance)
        before_s, busy_s, began_s = subject.cpu_s(), machine.busy_s(), time.monotonic()
        shot = ghz.fire(
            subject.endpoints, files, ghz.Pace(plan.callers, plan.connections, duration_s, rate), self._scratch
        )
        took_s = time.monotonic() - began_s
        spent_s = subject.cpu_s() - before_s
        others_s = machine.busy_s() - busy_s - spent_s - shot.cpu_s
        window_s, orders_per_s, p50_ms, p99_ms = measure(shot.calls)
        codes = Counter(call.code for calls in shot.calls for call in calls)
        return Round(
            subject=subject.name,
            transport=self._transport,
            loop=loop,
            orders=codes.pop("OK", 0),
            window_s=window_s,
            orders_per_s=orders_per_s,
            p50_ms=p50_ms,
            p99_ms=p99_ms,
            errors=dict(codes),
            repeated=sum(max(0, len(calls) - count) for calls in shot.calls) if subject.name == "crest" else 0,
            server_cpu_s=spent_s,
            ghz_cpu_s=shot.cpu_s,
            others_cores=max(0.0, others_s / took_s),
        )
