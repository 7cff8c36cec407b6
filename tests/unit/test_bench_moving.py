"""What a benchmark of moving slots tells: one clock for all its charts, and what a mover did in words."""

import pytest

from bench import charts, rebalance
from bench.moving.callers import Call
from bench.moving.live import Live, Phase, Waits

STEPS_MS = {"asked": 29.0, "known": 22.0}


def phase(name: str, began_s: float) -> Phase:
    """A move of 1,024 slots in ten seconds."""
    moved = [(began_s + 1, 0), (began_s + 5, 500), (began_s + 10, 1_024)]
    end = {"moves": 1_024, "sizes": [1_366, 1_365, 1_365], "verified": 7_477, "wrong": 0}
    waits = Waits(7, 150.0, 300.0)
    return Phase(name, began_s, began_s + 10, end, moved, 900, 179, 222.0, 281.0, STEPS_MS, waits, waits)


def live(*phases: Phase) -> Live:
    """Ten calls a second for 40.5 seconds."""
    return Live(100.0, 10.0, 0, [Call("create", number / 10, 30.0, "") for number in range(405)], list(phases))


@pytest.mark.parametrize("phases", [(), (phase("3 -> 4", 5.0),), (phase("3 -> 4", 5.0), phase("4 -> 3", 20.0))])
def test_rate_latency_and_slots_are_drawn_over_the_same_seconds(phases: tuple[Phase, ...]) -> None:
    """Each chart begins when the calls do and ends with their last whole second, and each move begins at no slot."""
    drawn = rebalance.over_time(live(*phases))
    for chart in drawn:
        for series in chart.series:
            assert (series.x[0], series.x[-1]) == (0.0, 39.0)
            assert list(series.x) == sorted(series.x, key=float)
        assert charts.draw(chart).startswith("<svg")
    (moved,) = drawn[-1].series
    for one in phases:
        assert moved.y[list(moved.x).index(one.began_s)] == 0


def test_what_a_move_did_is_told_with_units() -> None:
    """A person reads of slots, sizes, errors and proof first, and of the pauses in a sentence of their own."""
    did, paused = live(phase("4 -> 3 shards", 5.0)).findings()
    assert did.startswith("4 -> 3 shards: 1,024 of 4,096 slots in 10 s, shard sizes then 1,366, 1,365, 1,365;")
    assert "0 errors" in did
    assert "150 ms at most, none for longer than 300 ms" in paused
    assert "asked 29 ms, known 22 ms" in paused
