"""A short torture of the real server: its workers die and hang, and its history must be that of honest orders."""

from pathlib import Path
from typing import Final

import pytest

from tests.support.addresses import loopback
from tests.support.crest import Crest
from tests.support.history import Rules
from tests.torture.history.nemesis import KillWorker, PauseWorker
from tests.torture.history.run import Plan, torture

HOST: Final = loopback(29)
PORT: Final = 20_100
WORKERS: Final = 4
SEED: Final = 29
CACHE_TTL_S: Final = 1.0
SECONDS: Final = 60.0
"""At most; the operations are usually done in a quarter of it."""

OPERATIONS: Final = 6_000


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_orders_are_linearizable_while_workers_die(tmp_path: Path) -> None:
    """Whatever 32 callers are told while workers are killed and paused, one order at a time could have told them."""
    flags = ("--workers", str(WORKERS), "--cache-ttl-s", str(CACHE_TTL_S), "--stall-timeout-s", "3")
    with Crest(HOST, PORT, tmp_path / "data", *flags) as crest:
        crest.wait_serving(WORKERS)
        endpoints = [f"{HOST}:{PORT + 1 + worker}" for worker in range(WORKERS)]
        plan = Plan(SEED, SECONDS, OPERATIONS, Rules(CACHE_TTL_S))
        result = await torture(endpoints, plan, [KillWorker(crest), PauseWorker(crest)], tmp_path / "history.jsonl")
    report = result.report
    assert result.passed, "\n".join(map(str, report.violations[:3]))
    assert (report.violations_count, report.missing, report.doubled, report.unsettled) == (0, 0, 0, 0)
    assert report.operations >= 2_000
    assert result.faults.total() >= 2, result.faults
    assert result.staleness.reads > result.staleness.current, "no cached answer was old: nothing was tried"
