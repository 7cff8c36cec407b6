"""What a batch of moves does while a store fails."""

import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from shards.contract import StoreError, Unavailable
from shards.rebalance.batch import Batch, Outcome
from shards.rebalance.record import Move
from tests.simulation import virtual_time

MOVE = Move(slot=7, source=0, target=1, old_gen=0)


class Failing(Batch):
    """A batch whose store fails as often as there are errors, and then moves its slot."""

    def __init__(self, errors: list[StoreError]) -> None:
        nothing = cast("Any", None)
        super().__init__([MOVE], 2, {}, nothing, nothing, nothing, nothing, nothing)
        self._errors = errors
        self.tries = 0

    async def _once(self, _is_wanted: Callable[[], bool]) -> None:
        self.tries += 1
        if self._errors:
            raise self._errors.pop()
        self._moved.append(MOVE)


def run(batch: Batch, wanted_s: float = 1e9) -> tuple[Outcome, float]:
    """Returns what became of it, and the seconds that it took."""

    async def play() -> tuple[Outcome, float]:
        began_s = time.monotonic()
        outcome = await batch.run(lambda: time.monotonic() - began_s < wanted_s)
        return outcome, time.monotonic() - began_s

    return virtual_time.run(play())


def test_a_shard_that_is_away_for_a_while_holds_its_slots_up_and_no_longer() -> None:
    """While a shard is away its slots wait, for minutes; when it is back they move."""
    outcome, took_s = run(Failing([Unavailable("no node")] * 15))
    assert outcome.moved == (MOVE,)
    assert 60 < took_s < 90


@pytest.mark.parametrize(("error", "tries"), [(StoreError("no answer"), 5), (Unavailable("no node"), 24)])
def test_a_store_that_goes_on_failing_leaves_its_slots_stuck(error: StoreError, tries: int) -> None:
    """After a bounded number of tries the slots are named as stuck, with the error, and the rest may go on."""
    batch = Failing([error] * 100)
    outcome, took_s = run(batch)
    assert [stuck.slot for stuck in outcome.stuck] == [7]
    assert str(error) in outcome.stuck[0].reason
    assert batch.tries == tries
    assert took_s < 180


def test_a_batch_that_waits_leaves_when_it_is_not_wanted_any_more() -> None:
    """An operator who cancels does not wait for a shard that is away."""
    outcome, took_s = run(Failing([Unavailable("no node")] * 100), wanted_s=20)
    assert outcome == Outcome((), ())
    assert took_s < 21
