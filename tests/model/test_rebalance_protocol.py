"""The protocol of a moving slot, explored exhaustively; and each of its rules shown to be needed."""

from __future__ import annotations

import os

import pytest

from tests.model.explore import explore
from tests.model.scopes import LARGE, MUTANTS, SMALL
from tests.model.state import Scope

SCOPES = (*SMALL, *LARGE) if os.environ.get("TORTURE") else SMALL


@pytest.mark.torture
@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: scope.name)
def test_every_promise_holds_in_every_state(scope: Scope) -> None:
    """No order is lost, doubled, unreachable or read stale, and the move can end from wherever it is."""
    explored = explore(scope, states_max=2_000_000)
    assert not explored.broken, str(explored)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_rule_left_out_breaks_a_promise(mutant: str) -> None:
    """Without any one of its rules the protocol breaks a promise, and the way there is told."""
    explored = explore(MUTANTS[mutant], (mutant,))
    assert explored.broken, f"{mutant}: {explored.states} states, and every promise holds"
    assert explored.trace
