"""The gate: who begins, who waits, who is turned away, at a time that the test sets."""

from __future__ import annotations

from server.admission.gate import QUEUE_UNITS_MAX, WAIT_S_MAX, Gate, Priority, Verdict
from server.admission.limit import GradientLimit
from tests.support.gate_calls import Call

CRITICAL, NORMAL, LOW = Priority


class Desk:
    """A gate and its calls, at a time that the test sets."""

    def __init__(self, floor: int = 2) -> None:
        self.limit = GradientLimit(floor=floor, ceiling=floor)
        self.gate = Gate(self.limit, 0.0)
        self.track = self.limit.track()

    def come(self, priority: Priority, *, now: float = 0.0, left_s: float = 10.0, units: int = 1) -> Call:
        """A call comes."""
        call = Call(self.track, priority, now + left_s, units)
        verdict = self.gate.decide(self.track, priority, units, call.deadline, now)
        if verdict is Verdict.BEGIN:
            call.began = now
        elif verdict is Verdict.WAIT:
            self.gate.put(call, now)
        else:
            call.refused = verdict
        return call

    def end(self, call: Call, now: float, seconds: float = 0.01) -> None:
        """A call ends."""
        self.gate.leave(self.track, call.units, seconds, now, is_ok=True)


def test_who_waits_begins_by_priority_and_then_in_order() -> None:
    """A higher class goes before a lower one, whenever it came; within a class the first to come is the first."""
    desk = Desk()
    served = [desk.come(LOW), desk.come(LOW)]
    waiting = [desk.come(p) for p in (LOW, NORMAL, CRITICAL, LOW, NORMAL, CRITICAL)]
    order = []
    while served:
        desk.end(served.pop(0), 0.0)
        for place, call in enumerate(waiting):
            if call.began is not None and place not in order:
                order.append(place)
                served.append(call)
    assert order == [2, 5, 1, 4, 0, 3]
    assert desk.gate.waiting == 0


def test_critical_calls_have_places_of_their_own() -> None:
    """When all places are taken and others wait, so many critical calls begin at once, and no more than those."""
    desk = Desk(floor=64)
    served = [desk.come(NORMAL) for _ in range(64)]
    waiting = [desk.come(NORMAL) for _ in range(4)]
    critical = [desk.come(CRITICAL) for _ in range(10)]
    assert [call.began is not None for call in critical] == [True] * 8 + [False] * 2
    assert all(call.began is None for call in waiting)
    desk.end(served.pop(), 0.1)
    assert [call.began is not None for call in critical] == [True] * 9 + [False]
    for call in [*served[:9], *critical[:8]]:
        desk.end(call, 0.2)
    assert critical[9].began is not None
    assert all(call.began is not None for call in waiting)
    assert desk.gate.in_flight <= 64


def test_a_call_that_cannot_be_done_in_time_is_not_begun() -> None:
    """What would not be done by its deadline is refused when it comes, or at the latest when its turn comes."""
    desk = Desk()
    first, second = desk.come(LOW), desk.come(LOW)
    desk.track.base_s = desk.track.mean_s = 0.1
    assert desk.come(LOW, left_s=0.11).refused is Verdict.LATE  # there is not even time to wait for a place
    tight = desk.come(LOW, left_s=0.4)
    assert desk.gate.waiting == 1
    desk.end(first, 0.35)
    assert tight.refused is Verdict.LATE
    desk.end(second, 0.35)
    assert tight.began is None
    assert desk.gate.in_flight == 0


def test_a_method_that_was_slow_once_is_tried_again() -> None:
    """However slow a method is thought to be, calls with short deadlines are refused for a while only."""
    desk = Desk()
    desk.track.base_s = desk.track.mean_s = 5.0
    tries = [desk.come(NORMAL, now=number / 100, left_s=0.1) for number in range(1000)]
    assert tries[0].refused is Verdict.LATE
    assert any(call.began is not None for call in tries)


def test_what_a_method_takes_is_not_forgotten_by_refusing() -> None:
    """However many are refused in a moment, none is begun that would be late."""
    desk = Desk()
    desk.come(NORMAL, units=2)
    desk.track.mean_s = 0.6
    assert {desk.come(NORMAL, left_s=1.0).refused for _ in range(10_000)} == {Verdict.LATE}


def test_a_critical_call_is_tried_with_half_a_chance() -> None:
    """Where others are refused because calls often take longer than they have, a critical one waits for its turn."""
    desk = Desk()
    served = desk.come(NORMAL, units=2)
    desk.track.mean_s = 0.6
    assert desk.come(NORMAL, left_s=1.0).refused is Verdict.LATE
    critical = desk.come(CRITICAL, left_s=1.0)
    desk.gate.sweep(0.2)
    desk.end(served, 0.3, seconds=0.6)
    assert critical.began is not None
    desk.come(NORMAL)
    assert desk.come(CRITICAL, left_s=0.5).refused is Verdict.LATE


def test_the_line_is_bounded_and_the_lowest_make_room() -> None:
    """A full line refuses; a higher class takes the place of the last of the lowest class."""
    desk = Desk()
    desk.come(LOW, units=2)
    desk.gate._rate = 1e9  # so that no wait is too long
    low = [desk.come(LOW, units=1024) for _ in range(QUEUE_UNITS_MAX // 1024)]
    assert desk.gate.waiting == QUEUE_UNITS_MAX
    assert desk.come(LOW).refused is Verdict.FULL
    critical = desk.come(CRITICAL)
    assert critical.refused is None
    assert [call.refused for call in low] == [None] * (len(low) - 1) + [Verdict.FULL]
    assert desk.gate.waiting <= QUEUE_UNITS_MAX


def test_nobody_waits_for_ever() -> None:
    """When nothing ends any more, those in line are turned away in time, and those who left are forgotten."""
    desk = Desk()
    desk.come(NORMAL, units=2)
    patient, hasty, left = desk.come(NORMAL, left_s=60), desk.come(NORMAL, left_s=0.5), desk.come(NORMAL)
    left.gone = True
    desk.gate.sweep(0.6)
    assert (patient.refused, hasty.refused) == (None, Verdict.LATE)
    desk.gate.sweep(WAIT_S_MAX + 0.01)
    assert patient.refused is Verdict.FULL
    assert left.refused is None
    assert desk.gate.waiting == 0


def test_the_line_is_emptied_when_the_worker_stops() -> None:
    """Those who still wait are handed back, and none of them begins afterwards."""
    desk = Desk()
    served = desk.come(LOW, units=2)
    waiting = [desk.come(priority) for priority in Priority]
    assert desk.gate.empty() == waiting
    desk.end(served, 0.0)
    assert all(call.began is None for call in waiting)


def test_a_burst_at_the_start_is_served() -> None:
    """A worker that has served nobody yet refuses nobody of a burst that it can serve in the time they have."""
    desk = Desk(floor=64)
    calls = [desk.come(NORMAL, now=0.0, left_s=30.0) for _ in range(1_000)]
    now = 0.0
    for served in range(0, 1_000, 50):  # a cold store: 50 in the first 0.2 s, and no more in each that follows
        now += 0.2
        for call in [call for call in calls if call.began is not None][served : served + 50]:
            desk.end(call, now, seconds=now)
        late = desk.come(NORMAL, now=now, left_s=30.0)
        assert late.refused is None
    assert not any(call.refused for call in calls)
