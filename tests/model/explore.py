"""Explores every state that a scope can reach, breadth first, and tells the shortest way to a broken promise."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from tests.model import mover, worker
from tests.model.state import Scope, State
from tests.model.stores import Broken, check


class TooLarge(Exception):
    """The scope has more states than were asked for."""


@dataclass
class Explored:
    """What was found."""

    states: int
    steps: int
    broken: str = ""
    """The broken promise; empty where all hold."""
    trace: list[str] = field(default_factory=list)
    """How it comes about, one step a line."""

    def __str__(self) -> str:
        lines = [f"{number:3}. {what}" for number, what in enumerate(self.trace, start=1)]
        return "\n".join([self.broken or "every promise holds", *lines, f"({self.states} states)"])


def explore(scope: Scope, mutants: Collection[str] = (), *, states_max: int = 2_000_000) -> Explored:
    """Explores a scope exhaustively and returns at the first broken promise.

    States are remembered by their 64-bit hash (Holzmann's hash-compact search): of a million states two share one with
    a probability of 3e-8. Workers are alike, so a state is kept with its workers in one order (symmetry reduction).
    When all promises hold it is also checked that from every state the move can still end with the slot served.
    """
    collects = gc.isenabled()
    gc.disable()  # states hold no cycles, and looking for them among a million takes a third of the time
    try:
        return _explore(scope, mutants, states_max)
    finally:
        if collects:
            gc.enable()


def _explore(scope: Scope, mutants: Collection[str], states_max: int) -> Explored:
    first = _canonical(scope.first_state())
    ways: dict[int, tuple[int, str]] = {hash(first): (0, "")}
    before: dict[int, list[int]] = {}
    ended: list[int] = []
    queue = deque([first])
    taken = 0
    while queue:
        state = queue.popleft()
        own = hash(state)
        if _has_ended(state):
            ended.append(own)
        for what, after in _guarded(state, scope, mutants):
            taken += 1
            if isinstance(after, Broken):
                return Explored(len(ways), taken, str(after), [*_way(ways, own), what])
            reached = _canonical(after)
            number = hash(reached)
            before.setdefault(number, []).append(own)
            if number in ways:
                continue
            ways[number] = (own, what)
            try:
                check(reached)
            except Broken as broken:
                return Explored(len(ways), taken, str(broken), _way(ways, number))
            if len(ways) > states_max:
                raise TooLarge(f"scope {scope.name}: more than {states_max} states")
            queue.append(reached)
    for number in ways.keys() - _leads_to(before, ended):
        return Explored(len(ways), taken, "ENDLESS: the slot can never be served again", _way(ways, number))
    return Explored(len(ways), taken)


def _guarded(state: State, scope: Scope, mutants: Collection[str]) -> Iterator[tuple[str, State | Broken]]:
    """Yields the steps out of a state; a step that shows a caller what it must not see yields what it broke."""
    passing = worker.tick(state, mutants)
    if passing is not None:
        yield passing
    yield from mover.late_steps(state, mutants)
    yield from mover.steps(state, scope, mutants)
    try:
        yield from worker.steps(state, scope, mutants)
    except Broken as broken:
        yield "a worker answers", broken


def _canonical(state: State) -> State:
    if len(state.workers) == 1:
        return state
    return state._replace(workers=tuple(sorted(state.workers, key=hash)))


def _has_ended(state: State) -> bool:
    return state.mover.step == "end" and not state.docs[state.place.shard].is_paused


def _way(ways: dict[int, tuple[int, str]], number: int) -> list[str]:
    steps = []
    while ways[number][1]:
        number, what = ways[number]
        steps.append(what)
    return steps[::-1]


def _leads_to(before: dict[int, list[int]], ended: list[int]) -> set[int]:
    """Returns all states from which one of ``ended`` can be reached."""
    seen = set(ended)
    queue = list(ended)
    while queue:
        for number in before.get(queue.pop(), ()):
            if number not in seen:
                seen.add(number)
                queue.append(number)
    return seen
