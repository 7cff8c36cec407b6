"""A whole run: callers and nemesis against a running server, then peace, settling, audit and verdict."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.history import History, Report, Rules, Staleness, check, sample
from tests.torture.history.callers import Callers
from tests.torture.history.face import Face
from tests.torture.history.nemesis import Fault, Nemesis

CALLERS: Final = 32
SETTLE_TIMEOUT_S: Final = 120.0
"""For what was disturbed to be well again, and all that is in doubt to be answered."""


class Plan(NamedTuple):
    """What a run does."""

    seed: int
    seconds: float
    """Callers begin nothing later, unless ``operations_min`` is yet to be reached."""
    operations_max: int
    rules: Rules
    callers: int = CALLERS
    rest_s: tuple[float, float] = (0.1, 1.5)
    """Least and most between two faults."""
    operations_min: int = 0


class Result(NamedTuple):
    """What a run showed."""

    history: History
    report: Report
    staleness: Staleness
    faults: Counter[str]
    calling_s: float
    settling_s: float
    checking_s: float

    @property
    def passed(self) -> bool:
        """Whether no promise was broken."""
        stale = self.staleness
        return not (self.report.violations_count or stale.below_min_version or stale.beyond_ttl)


async def torture(endpoints: Sequence[str], plan: Plan, faults: Sequence[Fault], keep: Path | None = None) -> Result:
    """Runs against the workers at ``endpoints``, which serve already; writes the history to ``keep`` unless it passed.

    Raises ``Unsettled`` (in an exception group) when the server does not come to itself after the last fault.
    """
    history = History()
    nemesis = Nemesis(faults, plan.seed, rest_s=plan.rest_s)
    try:
        async with Face(endpoints, plan.seed) as face:
            callers = Callers(face, history, plan.seed, callers=plan.callers)
            began_s = time.monotonic()
            async with nemesis.at_work():
                await callers.run(began_s + plan.seconds, plan.operations_max, plan.operations_min)
            peace_s = time.monotonic()
            await callers.settle(peace_s + SETTLE_TIMEOUT_S)
            await callers.audit(time.monotonic() + SETTLE_TIMEOUT_S)
            settled_s = time.monotonic()
        report, staleness = await asyncio.to_thread(_judge, history, plan.rules)
    except BaseException:
        if keep is not None:
            history.save(keep)
        raise
    result = Result(
        history,
        report,
        staleness,
        nemesis.inflicted,
        calling_s=peace_s - began_s,
        settling_s=settled_s - peace_s,
        checking_s=time.monotonic() - settled_s,
    )
    if keep is not None and not result.passed:
        history.save(keep)
    return result


def _judge(history: History, rules: Rules) -> tuple[Report, Staleness]:
    return check(history, rules), sample(history, rules.cache_ttl_s)
