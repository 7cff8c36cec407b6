"""What all suites share: at the end, how many tests each suite ran and how long it took."""

from collections import defaultdict
from pathlib import Path

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints a line for each folder under tests/; the time is that of set-up, call and tear-down."""
    seconds: defaultdict[str, float] = defaultdict(float)
    tests: defaultdict[str, set[str]] = defaultdict(set)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                suite = "/".join(Path(report.nodeid.partition("::")[0]).parts[:2])
                seconds[suite] += report.duration
                tests[suite].add(report.nodeid)
    if not seconds:
        return
    terminalreporter.section("suites")
    for suite in sorted(seconds):
        terminalreporter.write_line(f"{suite:<20} {len(tests[suite]):>6} tests {seconds[suite]:>8.1f} s")
