"""Slots move while a real server serves them, and what moves them, or serves them, dies meanwhile."""

from pathlib import Path
from typing import Final

import pytest

from tests.support.addresses import loopback
from tests.support.crest import Crest
from tests.support.rebalances import Where
from tests.torture.rebalance.cases import Case, Place, mover_dies, worker_freezes
from tests.torture.rebalance.trial import run

HOST: Final = loopback(48)
PORT: Final = 20_300
WORKERS: Final = 2
SEED: Final = 48
CALLERS: Final = 4


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_nothing_is_lost_whatever_dies_while_slots_move(tmp_path: Path) -> None:
    """Callers are told nothing wrong while a mover is killed just before its flip and a worker sleeps through one."""
    cases: list[Case] = [mover_dies("before flip"), worker_freezes()]
    flags = ("--workers", str(WORKERS), "--shards", "2", "--cache-ttl-s", "1", "--no-admission")
    with Crest(HOST, PORT, tmp_path / "data", *flags) as crest:
        crest.wait_serving(WORKERS)
        endpoints = [f"{HOST}:{PORT + 1 + worker}" for worker in range(WORKERS)]
        place = Place(Where("embedded", tmp_path / "data"), crest, None, 0, 0)
        for number, case in enumerate(cases):
            result = await run(case, place, endpoints, SEED + number, callers_count=CALLERS)
            assert result.passed, result
            assert (result.ended, result.slots > 0) == ("done", True), result
