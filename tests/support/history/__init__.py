"""Histories: what callers asked and were told, when, and whether one order at a time could have answered like that.

``History`` records, ``check`` judges, ``sample`` measures how old cached answers were. Nothing here knows a server.
"""

from tests.support.history.checker import Report, Rules, Violation, check
from tests.support.history.operation import AUDITOR, WRITES, Kind, Listed, Operation, Outcome, Result, failure
from tests.support.history.recorder import History
from tests.support.history.staleness import Staleness, sample

__all__ = [
    "AUDITOR",
    "WRITES",
    "History",
    "Kind",
    "Listed",
    "Operation",
    "Outcome",
    "Report",
    "Result",
    "Rules",
    "Staleness",
    "Violation",
    "check",
    "failure",
    "sample",
]
