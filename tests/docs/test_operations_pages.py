"""The operator's pages say what the code does."""

from pathlib import Path

from server.config import reference
from server.metrics.page import page
from server.processes import ExitCode

DOCS = Path(__file__).parents[2] / "docs"


def test_metrics_page_is_printed() -> None:
    """The page of metrics is the one that its module prints."""
    assert (DOCS / "metrics.md").read_text() == page(), "run: python -m server.metrics > docs/metrics.md"


def test_settings_are_those_of_the_code() -> None:
    """The tables of settings are the code's, so that none is missing and no default is out of date."""
    assert reference() in (DOCS / "operations.md").read_text(), "paste: python -m server.config"


def test_exit_codes_are_those_of_the_code() -> None:
    """The table of exit codes is the code's."""
    rows = "\n".join(f"| {code.value} | `{code.name}` | {code.text} |" for code in ExitCode)
    assert f"|---|---|---|\n{rows}\n\n" in (DOCS / "operations.md").read_text()
