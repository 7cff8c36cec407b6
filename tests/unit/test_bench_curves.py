"""Latency over the offered rate: how far a curve goes."""

import random
from pathlib import Path

from bench.parts import Context
from bench.rows import unary
from bench.summary import Round


class Service:
    """Something under an open loop that does so many orders a second and no more."""

    name = "service"

    def __init__(self, most: float) -> None:
        self.most = most

    def fire(self, _seconds: float, rate: int | None = None) -> Round:
        """One run at a rate."""
        assert rate is not None
        done = min(float(rate), self.most)
        return Round(self.name, "open", round(done), 1.0, done, 1.0, 2.0, {}, 0, {}, 0.0)


def curve(most: float, closed: float) -> list[tuple[int, float]]:
    """Offered and done, of a service that did ``closed`` orders a second for callers who wait."""
    context = Context(Path(), "127.0.0.1", 20_000, False, random.Random(0), lambda _: None, None)
    rounds = {Service.name: [Service(closed).fire(1.0, round(closed))]}
    found = unary.curves(context, [Service(most)], rounds)
    return [(rate, done.orders_per_s) for rate, done in found[Service.name]]


def test_curve_ends_where_the_service_is_full() -> None:
    """The rate rises beyond what a closed loop reached until less than nine tenths get done, once."""
    points = curve(most=2_000, closed=1_000)
    assert points[0][0] == 100
    assert [rate for rate, _ in points] == sorted(rate for rate, _ in points)
    full = [done < 0.9 * rate for rate, done in points]
    assert full == [False] * (len(points) - 1) + [True]
    full_at_once = curve(most=500, closed=1_000)
    assert full_at_once[-1][0] == 1_000


def test_curve_has_an_end_whatever_the_service_does() -> None:
    """A service that is never full is asked for no more than four times what it did in a closed loop."""
    points = curve(most=1e9, closed=1_000)
    assert 3_000 < points[-1][0] < 4_000
