"""Slots that move there and back while workers freeze, leases lapse, answers get lost and writes land late.

``CREST_SIMULATION_SEEDS`` asks for more seeds than the few of an ordinary run. A seed that fails is played again by
``play(seed)``.
"""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from shards.facts import Facts
from shards.leases import SlotStates, keeper
from shards.leases.hold import Hold
from shards.leases.watch import glance_states, read_states
from shards.places import Places
from tests.simulation.moves_world import play
from tests.support.server_process import ROOT

SEEDS: Final = int(os.environ.get("CREST_SIMULATION_SEEDS", "16"))
TWICE: Final = 4
"""Seeds that are played twice."""

SEEDS_TO_CATCH_MAX: Final = 240
"""A planted bug that so many runs do not show would be one that the simulation is blind to."""


@pytest.mark.timeout(300 + 3 * SEEDS)
def test_moves_lose_nothing_and_answer_nothing_stale() -> None:
    """Whatever freezes, is lost or late, every acknowledged version stays, and no answer is out of date."""
    told: Counter[str] = Counter()
    flips = 0
    for seed in range(SEEDS):
        try:
            world = play(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        told += world.told
        flips += world.flips
    assert flips > SEEDS
    assert told["APPLIED"] > 10 * SEEDS
    assert min(told[word] for word in ("handed", "closed", "silent", "refused", "settled", "found")) > 0


def test_a_seed_is_a_run() -> None:
    """A seed that failed fails again: in another process, with other hashes, the same happens at the same moments."""
    code = f"from tests.simulation.moves_world import play; [print(repr(play(seed).trace)) for seed in range({TWICE})]"
    again = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "11"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=240,
        check=True,
    ).stdout.splitlines()
    for seed, told in enumerate(again):
        assert repr(play(seed).trace) == told, f"seed {seed}"
    assert len(again) == TWICE


Plant = Callable[[pytest.MonkeyPatch], None]
PLANTS: dict[str, Plant] = {}


def plant(function: Plant) -> Plant:
    """Lists a bug that the simulation must show."""
    PLANTS[function.__name__] = function
    return function


@plant
def the_lease_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    """Once a lease is held answers are given for ever."""
    patch.setattr(Hold, "extend", lambda hold, _until_s: setattr(hold, "until_s", float("inf")))


@plant
def a_pause_is_confirmed_before_it_is_done(patch: pytest.MonkeyPatch) -> None:
    """The renewal under new states is sent while operations on the paused slots go on."""
    pause = Places.pause
    kept = set()

    async def later(places: Places, shard: int, paused: frozenset[int]) -> None:
        async def after_a_while() -> None:
            await asyncio.sleep(0.3)  # sleep: simulated
            await pause(places, shard, paused)

        kept.add(asyncio.ensure_future(after_a_while()))

    patch.setattr(Places, "pause", later)


@plant
def what_had_begun_is_answered(patch: pytest.MonkeyPatch) -> None:
    """An operation does not notice that its slot was paused, or moved, since it began."""

    def change_in_place(places: Places, slot: int) -> None:
        place, new = places.slots[slot], places._place(slot)
        place.shard_id, place.shard, place.hold, place.gen = new.shard_id, new.shard, new.hold, new.gen
        place.is_paused = new.is_paused
        place.passes()
        place._is_past, place._passed = False, None

    patch.setattr(Places, "_replace", change_in_place)


@plant
def any_topology_will_do(patch: pytest.MonkeyPatch) -> None:
    """A worker takes a lease under a topology from before a move."""

    async def without(facts: Facts) -> SlotStates:
        return replace(await read_states(facts), epoch_min=0)

    async def glance_without(facts: Facts) -> SlotStates | None:
        states = await glance_states(facts)
        return None if states is None else replace(states, epoch_min=0)

    patch.setattr(keeper, "read_states", without)
    patch.setattr(keeper, "glance_states", glance_without)


@plant
def a_word_is_heeded_without_a_lease(patch: pytest.MonkeyPatch) -> None:
    """A worker that was frozen opens a slot at a word that landed when its lease had ended."""
    patch.setattr(keeper.Keeper, "_acts_under", lambda _keeper, _revision: True)


@plant
def a_word_opens_under_later_states(patch: pytest.MonkeyPatch) -> None:
    """Who has taken over finds no word, and a worker that knows of it heeds one that lands after that."""
    patch.setattr(SlotStates, "opens", property(lambda states: states.leaving))


@pytest.mark.parametrize("name", PLANTS)
@pytest.mark.timeout(300 + 3 * SEEDS_TO_CATCH_MAX)
def test_planted_bugs_are_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to get the protocol wrong breaks a guarantee in some run."""
    PLANTS[name](monkeypatch)
    for seed in range(SEEDS_TO_CATCH_MAX):
        try:
            play(seed)
        except AssertionError:
            return
        except BaseExceptionGroup as errors:
            if errors.subgroup(AssertionError) is not None:
                return
            raise
    pytest.fail(f"{SEEDS_TO_CATCH_MAX} runs did not show it")
