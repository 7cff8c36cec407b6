"""The service's use cases under the torture's callers in simulated time, judged by their history alone.

``CREST_SIMULATION_SEEDS`` asks for more seeds; a seed that fails is played again by ``history_world.play(seed)``.
"""

import os
from typing import Final

import pytest

from tests.simulation.history_plants import PLANTS
from tests.simulation.history_world import play
from tests.support.history import Kind, Outcome

SEEDS: Final = int(os.environ.get("CREST_SIMULATION_SEEDS", "40"))
SEEDS_TO_CATCH_MAX: Final = 40
"""A planted bug that so many runs do not show would be one that the checker is blind to."""


@pytest.mark.timeout(300 + SEEDS)
def test_every_history_can_be_explained() -> None:
    """Whatever the stores do within the law, callers are told what one order at a time could have told them."""
    for seed in range(SEEDS):
        _, report = play(seed)
        assert not report.violations_count, "\n".join([f"seed {seed}", *map(str, report.violations[:3])])
        assert report.missing == report.doubled == report.unsettled == 0


def test_histories_hold_every_kind_of_answer() -> None:
    """The runs meet everything that callers can be told, so that a clean one means something."""
    operations = [operation for seed in range(8) for operation in play(seed)[0]]
    seen = {(operation.kind, operation.result.outcome) for operation in operations}
    reasons = {operation.result.reason for operation in operations}
    assert seen >= {(kind, Outcome.OK) for kind in Kind}
    assert seen >= {(Kind.CREATE, Outcome.UNKNOWN), (Kind.MOVE, Outcome.UNKNOWN), (Kind.CREATE, Outcome.FAILED)}
    assert reasons >= {
        "REQUEST_ID_REUSED",
        "ORDER_NOT_FOUND",
        "TRANSITION_NOT_ALLOWED",
        "VERSION_MISMATCH",
        "MIN_VERSION_NOT_REACHED",
    }


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_convicted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history tells on each bug of the list."""
    PLANTS[name](monkeypatch)
    for seed in range(SEEDS_TO_CATCH_MAX):
        _, report = play(seed)
        if report.violations_count:
            return
    pytest.fail(f"{SEEDS_TO_CATCH_MAX} runs did not show it")
