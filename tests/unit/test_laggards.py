"""Who of the workers lags, from what their beats tell, in virtual time."""

import itertools
from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from server.processes import BEAT_INTERVAL_S
from server.supervisor.laggards import KNOWN_S, LAGS_BY, WELL_S, Laggards

Shares = Callable[[int, float], float]
"""What a worker's beat tells at a moment."""


class Server:
    """Workers who beat in turn, and what is said of them after each round of beats."""

    def __init__(self, workers: int) -> None:
        self.now_s = 0.0
        self.laggards = Laggards(workers)
        self.serving = set(range(workers))
        self.said: list[tuple[float, frozenset[int]]] = []

    def run(self, seconds: float, stalled: Shares) -> list[frozenset[int]]:
        """Goes on for so long; returns what was said meanwhile."""
        before = len(self.said)
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += BEAT_INTERVAL_S
            for number in self.serving:
                self.laggards.heard(number, stalled(number, self.now_s), self.now_s)
            self.said.append((self.now_s, self.laggards.look(self.serving, self.now_s)))
        return [lagging for _, lagging in self.said[before:]]


WORKERS = st.integers(2, 6)
NOISE = st.lists(st.floats(0, 0.15), min_size=20, max_size=20)


def noise(drawn: Sequence[float]) -> Shares:
    """Some of it, another for each worker and moment."""
    return lambda number, now_s: drawn[(7 * number + round(now_s / BEAT_INTERVAL_S)) % len(drawn)]


@given(WORKERS, NOISE, st.floats(0.55, 1), st.data())
def test_who_is_stopped_most_of_the_time_lags_until_it_is_well(
    workers: int, drawn: list[float], share: float, data: st.DataObject
) -> None:
    """A worker that is kept from running for more than half of the time is found within seconds, alone, stays a laggard
    for as long as that lasts, and is none when it has been well for some seconds.
    """
    slow = data.draw(st.integers(0, workers - 1))
    calm = noise(drawn)
    server = Server(workers)
    assert set(server.run(10, calm)) == {frozenset()}
    said = server.run(20, lambda number, now_s: share if number == slow else calm(number, now_s))
    first = said.index(frozenset({slow}))
    assert first * BEAT_INTERVAL_S <= 3
    assert set(said[:first]) <= {frozenset()}
    assert set(said[first:]) == {frozenset({slow})}
    well = server.run(15, lambda _number, _now_s: drawn[0])
    assert well[0] == frozenset({slow})
    assert well[-1] == frozenset()
    assert well.count(frozenset({slow})) * BEAT_INTERVAL_S >= WELL_S


@given(WORKERS, st.floats(0, 1 - LAGS_BY), st.data())
def test_nobody_lags_when_all_are_busy(workers: int, least: float, data: st.DataObject) -> None:
    """However little of the time workers run, none lags whose share never differs much from that of the others."""
    shares = data.draw(st.lists(st.floats(least, least + LAGS_BY - 0.01), min_size=30, max_size=30))
    server = Server(workers)
    assert set(server.run(30, noise(shares))) == {frozenset()}


@given(st.floats(0.5, 60), st.integers(2, 5))
def test_one_pause_makes_nobody_a_laggard(pause_s: float, workers: int) -> None:
    """A single pause, however long, is none of a worker that lags."""
    server = Server(workers)
    server.run(10, lambda _number, _now_s: 0.0)
    server.serving.discard(0)
    server.run(pause_s, lambda _number, _now_s: 0.0)
    server.serving.add(0)
    paused = server.now_s + BEAT_INTERVAL_S
    said = server.run(10, lambda number, now_s: 1.0 if number == 0 and now_s == paused else 0.0)
    assert set(said) == {frozenset()}


@given(WORKERS, st.data())
def test_changes_are_few_whatever_comes(workers: int, data: st.DataObject) -> None:
    """Whatever beats tell, who lags does so for a while, each time longer; and never do all workers, nor most."""
    shares = data.draw(st.lists(st.sampled_from([0.0, 0.3, 0.7, 1.0]), min_size=7, max_size=40))
    pace = data.draw(st.integers(1, 40))
    server = Server(workers)
    server.run(120, lambda number, now_s: shares[int(now_s / BEAT_INTERVAL_S / pace + 5 * number) % len(shares)])
    assert all(2 * len(lagging) <= workers for _, lagging in server.said)
    for number in range(workers):
        standing = [number in lagging for _, lagging in server.said]
        begun = sum(now and not was for was, now in itertools.pairwise(standing))
        if workers == 2:  # of more, most may lag at once, which is said of none
            # each lasts 3, 6, 12, 24, 48 s at least, or 3 again after 60 well ones: an eighth would begin after 126 s
            assert begun <= 7


def test_an_idle_worker_makes_no_laggards_of_the_others() -> None:
    """Where one worker runs more freely than the others, only who is far behind those lags."""
    server = Server(4)
    unlike = {2: 0.0, 3: 0.9}
    said = server.run(20, lambda number, _now_s: unlike.get(number, 0.4))
    assert said[-1] == {3}
    assert set(said) == {frozenset(), frozenset({3})}


def test_a_successor_is_not_what_it_replaces() -> None:
    """The process that takes the place of a laggard is judged by its own beats, and when it has given enough."""
    server = Server(3)
    server.run(10, lambda number, _now_s: 0.8 if number == 1 else 0.0)
    assert server.said[-1][1] == {1}
    server.laggards.forget(1)
    assert set(server.run(10, lambda _number, _now_s: 0.0)) == {frozenset()}


def test_who_has_just_started_is_neither_judged_nor_a_measure() -> None:
    """On full cores a new worker, of whom little is known, makes no laggard of the other one, nor is it one."""
    server = Server(2)
    server.run(10, lambda _number, _now_s: 0.8)
    server.laggards.forget(1)
    said = server.run(KNOWN_S - 1, lambda number, _now_s: 0.8 if number == 0 else 0.0)
    assert set(said) == {frozenset()}


def test_a_worker_alone_lags_behind_nobody() -> None:
    """Where only one serves there is nothing to compare it with."""
    server = Server(2)
    server.serving = {0}
    assert set(server.run(10, lambda _number, _now_s: 1.0)) == {frozenset()}
