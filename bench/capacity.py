"""How many orders a second a service bears: for seconds, and for as long as a burst lasts.

What it bears for seconds is more: queues fill meanwhile, and nodes put off what they have to do in the end. Offers are
made by who asks, so that all here is decided without a service.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from bench.rounds import OTHERS_MAX

STEP: Final = 1.2
"""The rates that are offered briefly, one over the other, from what a closed loop does up; and the most that a rate
goes down at once when it is not borne for long."""

STEPS_MAX: Final = 8
IN_TIME_MIN: Final = 0.99
STEP_TRIES: Final = 2
"""A brief offer that fails is made again: a pause of one node in a few seconds says little."""

LONG_TRIES: Final = 3
"""Offers as long as a burst, in all."""

DOWN_LEAST: Final = 0.95
"""What is left of a rate that was not borne for long, at most."""


class Offer(NamedTuple):
    """What came of offering a rate for a while, in an open loop."""

    offered: float
    """Calls a second that there were."""
    goodput: float
    """Of these, those that were answered OK in time."""
    p99_ms: float
    others_cores: float
    """What anything else on the machine took meanwhile."""

    @property
    def is_borne(self) -> bool:
        """Whether all but one of a hundred were answered in time."""
        return self.goodput >= IN_TIME_MIN * self.offered


class Capacity(NamedTuple):
    """Orders a second."""

    sustained: float
    """What was borne for as long as a burst lasts; when no such offer was, what was answered in time of the last."""
    is_borne: bool
    """Whether such an offer was."""
    brief: float
    """The highest rate that was borne for seconds."""


Try = Callable[[float, float], Offer]
"""Offers so many calls a second for so many seconds."""


def search(offer: Try, closed: float, *, brief_s: float, long_s: float, tell: Callable[[str], None]) -> Capacity:
    """Climbs from ``closed`` in brief steps to the first that is not borne, then goes down to what is borne for long.

    A long offer that failed while something else took more than ``OTHERS_MAX`` cores is made again as it was.
    """
    brief = _climbed(offer, closed, brief_s, tell)
    rate, done = brief, None
    for _ in range(LONG_TRIES):
        done = _told(offer, rate, long_s, tell)
        if done.is_borne:
            return Capacity(rate, is_borne=True, brief=brief)
        if done.others_cores <= OTHERS_MAX:
            rate = max(rate / STEP, min(rate * DOWN_LEAST, done.goodput))
    assert done is not None
    return Capacity(done.goodput, is_borne=False, brief=brief)


def _climbed(offer: Try, closed: float, brief_s: float, tell: Callable[[str], None]) -> float:
    """Returns the highest of the rates, each ``STEP`` times the one before, that was borne; or ``closed``."""
    highest = closed
    for step in range(STEPS_MAX):
        rate = closed * STEP**step
        if not any(_told(offer, rate, brief_s, tell).is_borne for _ in range(STEP_TRIES)):
            break
        highest = rate
    return highest


def _told(offer: Try, rate: float, seconds: float, tell: Callable[[str], None]) -> Offer:
    done = offer(rate, seconds)
    share = done.goodput / max(1.0, done.offered)
    tell(f"{rate:,.0f}/s offered for {seconds:g} s: {share:.1%} in time, p99 {done.p99_ms:.0f} ms")
    return done
