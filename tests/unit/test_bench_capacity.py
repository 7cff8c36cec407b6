"""How the benchmark looks for the capacity, over services that are not there."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from bench.capacity import IN_TIME_MIN, LONG_TRIES, STEP, STEP_TRIES, STEPS_MAX, Capacity, Offer, search
from bench.rounds import OTHERS_MAX

BRIEF_S, LONG_S = 6.0, 30.0


class Service:
    """Bears one rate for seconds and another one for long; beyond that it answers a part of it in time."""

    def __init__(self, brief: float, sustained: float, *, left: float = 1.0, disturbed: int = 0) -> None:
        """The first ``disturbed`` long offers fail whatever is offered, while something else takes the cores."""
        self.bears = {BRIEF_S: brief, LONG_S: sustained}
        self.left = left
        self.disturbed = disturbed
        self.offers: list[tuple[float, float]] = []

    def offer(self, rate: float, seconds: float) -> Offer:
        """Answers."""
        self.offers.append((rate, seconds))
        if seconds == LONG_S and self.disturbed:
            self.disturbed -= 1
            return Offer(rate, rate / 2, 900.0, 2 * OTHERS_MAX)
        bears = self.bears[seconds]
        return Offer(rate, rate if rate <= bears else bears * self.left, 100.0, 0.0)

    def capacity(self, closed: float) -> Capacity:
        """What the search finds."""
        return search(self.offer, closed, brief_s=BRIEF_S, long_s=LONG_S, tell=lambda _: None)


@given(st.floats(500, 5_000), st.floats(1, 2), st.floats(0.6, 1.0), st.floats(0.5, 1.0))
def test_the_capacity_is_what_half_a_minute_bears(closed: float, more: float, share: float, left: float) -> None:
    """A capacity that is called borne was borne for as long as a burst lasts, and offers stay within their bounds."""
    service = Service(closed * more, closed * more * share, left=left)
    found = service.capacity(closed)
    assert found.brief * IN_TIME_MIN <= closed * more  # one of a hundred may be late
    assert found.sustained <= found.brief
    if found.is_borne:
        assert (found.sustained, LONG_S) == service.offers[-1]
    long = [rate for rate, seconds in service.offers if seconds == LONG_S]
    assert len(long) <= LONG_TRIES
    assert len(service.offers) - len(long) <= STEPS_MAX * STEP_TRIES
    assert all(later < earlier for earlier, later in itertools.pairwise(long))
    if left == 1.0 and share >= 1 / STEP:
        assert found.is_borne
        assert found.sustained >= 0.95 * min(found.brief, closed * more * share)


def test_a_long_offer_that_was_disturbed_is_made_again() -> None:
    """When something else took the cores, the same rate is offered once more."""
    service = Service(2_000, 2_000, disturbed=1)
    found = service.capacity(1_000)
    assert found.is_borne
    assert found.sustained == found.brief


def test_what_never_holds_is_what_was_answered_in_time() -> None:
    """A service that bears no rate for long is said to have none, and its capacity is what it answered."""
    service = Service(2_000, 100)
    assert service.capacity(1_000) == Capacity(100, is_borne=False, brief=service.offers[-LONG_TRIES][0])
