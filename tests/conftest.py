"""What all suites share: generated examples without a time limit, and at the end how long each suite took."""

from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something of the machine, and nothing of the code that it tries.
settings.register_profile("crest", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("crest")


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
