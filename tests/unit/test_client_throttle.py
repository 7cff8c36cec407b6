"""Holding calls back, against a service that accepts so many a second."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.throttle import FORGET_S, K, Throttle


class World:
    """A client that wants calls at a pace, and a service that accepts so many a second."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 100.0
        self.throttle = Throttle(clock=lambda: self.now, chance=random.Random(seed).random)
        self.sent = 0
        self.accepted = 0
        self._room = 0.0

    def want(self, per_second: float, seconds: float, capacity: float) -> tuple[int, int, int]:
        """Returns how many were wanted, sent and accepted meanwhile."""
        wanted, sent, accepted = int(per_second * seconds), 0, 0
        for _ in range(wanted):
            self.now += 1 / per_second
            self._room = min(1 + 0.1 * capacity, self._room + capacity / per_second)  # calls wait 0.1 s in line
            if self.throttle.holds_back():
                continue
            sent += 1
            if self._room >= 1:
                self._room -= 1
                accepted += 1
                self.throttle.accepted()
            else:
                self.throttle.refused()
        return wanted, sent, accepted


@settings(deadline=None, max_examples=30)
@given(per_second=st.floats(1, 2000), seed=st.integers(0, 99))
def test_a_client_that_is_served_holds_nothing_back(per_second: float, seed: int) -> None:
    """As long as calls are accepted each is sent."""
    wanted, sent, accepted = World(seed).want(per_second, 3, 1e9)
    assert wanted == sent == accepted


@pytest.mark.parametrize("times", [4, 10, 50])
def test_however_much_is_wanted_the_service_is_sent_about_twice_what_it_accepts(times: int) -> None:
    """Far beyond its capacity the service goes on getting its capacity, and not much more than K times that."""
    world = World()
    world.want(times * 200, 3 * FORGET_S, 200)
    _, sent, accepted = world.want(times * 200, 5, 200)
    assert sent <= 1.3 * K * 200 * 5
    assert accepted >= 0.95 * 200 * 5


def test_after_the_burst_everything_is_sent_again() -> None:
    """Soon after the service accepts everything again nothing is held back any more."""
    world = World()
    world.want(2000, 5, 200)
    world.want(140, 6 * FORGET_S, 1e9)
    wanted, sent, _ = world.want(140, 5, 1e9)
    assert sent == wanted


def test_a_client_of_few_calls_holds_nothing_back() -> None:
    """Who calls now and then asks each time, though every call was refused."""
    wanted, sent, accepted = World().want(2, 30, 0)
    assert (sent, accepted) == (wanted, 0)


def test_what_is_not_answered_holds_nothing_back() -> None:
    """Calls under way, and those that were given up or never sent, are no refusals: however many, the next is sent."""
    throttle = Throttle(clock=lambda: 0.0, chance=lambda: 0.0)
    assert not any(throttle.holds_back() for _ in range(1000))
