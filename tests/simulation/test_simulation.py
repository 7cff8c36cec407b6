"""Whole runs of callers, workers and stores in simulated time.

``CREST_SIMULATION_SEEDS`` asks for more seeds than the few of an ordinary run. A seed that fails is played again by
``play(seed)``.
"""

import os
from typing import Final

import pytest

from tests.simulation.row_plants import PLANTS
from tests.simulation.world import play

SEEDS: Final = int(os.environ.get("CREST_SIMULATION_SEEDS", "100"))
SEEDS_TO_CATCH_MAX: Final = 150
"""A planted bug that so many runs do not show would be one that the simulation is blind to."""


@pytest.mark.timeout(300 + SEEDS)
def test_no_guarantee_is_broken() -> None:
    """Whatever the stores do within the law, no caller is told anything wrong, late, or not at all."""
    for seed in range(SEEDS):
        try:
            play(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_a_seed_is_a_run() -> None:
    """The same seed gives the same answers, and a run meets every kind of answer."""
    told = play(7).told
    assert play(7).told == told
    kinds = set().union(*(play(seed).told for seed in range(40)))
    assert kinds >= {
        "APPLIED",
        "CLASH",
        "SEALED",
        "OutcomeUnknown",
        "DeadlineExceeded",
        "Overloaded",
        "Invalid",
        "list",
        "handed",
        "closed",
        "silent",
        "refused",
    }


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation shows each bug of the list, so a run without violations means something."""
    PLANTS[name](monkeypatch)
    for seed in range(SEEDS_TO_CATCH_MAX):
        try:
            play(seed)
        except (AssertionError, BaseExceptionGroup):
            return
    pytest.fail(f"{SEEDS_TO_CATCH_MAX} runs did not show it")
