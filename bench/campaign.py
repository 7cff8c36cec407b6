"""The course of a benchmark: both subjects up, warmed, then loaded in turn, never both at once.

Turns alternate in order (A B, B A, ...), so that neither always comes after the other.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench import ghz, load, machine, subjects
from bench.summary import Round, measure

WARM_UP_S: Final = 2.0
WARM_UP_RATE: Final = 12_000
"""Orders a second that the messages of the warm-up allow for, before any rate is known."""

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
            volley.rates[subject.name] = WARM_UP_RATE
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
        self.rates: dict[str, float] = {}
        self.acknowledged = 1  # the one by which we saw that it serves
        self._plan = plan
        self._transport = transport
        self._scratch = scratch
        self._chance = chance
        self._tell = tell

    def fire(self, subject: subjects.Subject, loop: str, duration_s: float, rate: int | None = None) -> Round:
        """Returns the figures of one round against one subject."""
        self._tell(f"{self._transport} {subject.name} {loop}", None)
        plan = self._plan
        ports = len(subject.endpoints)
        count = int((rate or self.rates[subject.name]) * duration_s * RESERVE / ports) + plan.callers
        files = [self._scratch / f"messages-{index}.bin" for index in range(ports)]
        for file in files:
            load.write_messages(file, min(count, load.MESSAGES_MAX), self._chance)
        before_s, busy_s, began_s = subject.cpu_s(), machine.busy_s(), time.monotonic()
        shot = ghz.fire(
            subject.endpoints, files, ghz.Pace(plan.callers, plan.connections, duration_s, rate), self._scratch
        )
        took_s = time.monotonic() - began_s
        spent_s = subject.cpu_s() - before_s
        others_s = machine.busy_s() - busy_s - spent_s - shot.cpu_s
        window_s, orders_per_s, p50_ms, p99_ms = measure(shot.calls)
        codes = Counter(call.code for calls in shot.calls for call in calls)
        done = Round(
            subject=subject.name,
            transport=self._transport,
            loop=loop,
            orders=codes.pop("OK", 0),
            window_s=window_s,
            orders_per_s=orders_per_s,
            p50_ms=p50_ms,
            p99_ms=p99_ms,
            errors=dict(codes),
            repeated=sum(max(0, len(calls) - count) for calls in shot.calls),
            server_cpu_s=spent_s,
            ghz_cpu_s=shot.cpu_s,
            others_cores=max(0.0, others_s / took_s),
        )
        if rate is None:
            # never below what was seen: a slow round must not leave the next one short of messages
            self.rates[subject.name] = (
                orders_per_s if loop == "warm-up" else max(self.rates[subject.name], orders_per_s)
            )
        if subject.name == "crest":
            self.acknowledged += done.orders - done.repeated
        self._tell(f"{self._transport} {subject.name} {loop}", done)
        return done
