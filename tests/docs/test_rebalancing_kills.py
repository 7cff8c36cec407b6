"""The table of what was killed while slots moved is the one that was measured, and leaves nothing out."""

from pathlib import Path

import pytest

from tests.torture.rebalance import page
from tests.torture.rebalance.cases import GROWTH, cases_of

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = page.read((DOCS / "rebalancing-kills.json").read_bytes())


def test_the_page_is_made_of_the_results() -> None:
    """docs/rebalancing-kills.md is what the results that are kept beside it come to."""
    assert (DOCS / "rebalancing-kills.md").read_text(encoding="utf-8") == page.page(RESULTS)


@pytest.mark.parametrize("store", sorted({result.store for result in RESULTS}))
def test_every_case_was_run_and_passed(store: str) -> None:
    """Each disturbance at each point of the work has a result, and none lost, doubled or misled."""
    kept = {result.case: result for result in RESULTS if result.store == store}
    assert [case for case in kept if case not in GROWTH] == [case.name for case in cases_of(store)]
    assert [case for case, result in kept.items() if not result.passed] == []
    assert [result.case for result in kept.values() if result.case in GROWTH and result.refused_or_late] == []


def test_both_stores_are_told_of() -> None:
    """What was killed was killed on either store."""
    assert {result.store for result in RESULTS} == {"embedded", "cassandra"}
