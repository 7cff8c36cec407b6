"""A shard is added and taken back from a terminal, while callers create, change, read, list and repeat orders."""

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.addresses import loopback
from tests.support.crest import Crest
from tests.torture.rebalance.watching import CACHE_TTL_S, watched

ROOT = Path(__file__).resolve().parents[2]
HOST = loopback(49)
PORT = 24_600
WORKERS = 2
CALLERS = 4
SEED = 46
TIMEOUT_S = 20.0
"""Of every call: none may fail for anything but a service that does not answer."""


async def operate(data_dir: Path, *words: str) -> dict[str, object]:
    """Runs a command of the operator to its end, and returns the last document that it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shards.rebalance", *words, "--data-dir", str(data_dir), "--json",
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    told, _ = await process.communicate()
    assert process.returncode == 0, words
    document: dict[str, object] = json.loads(told.splitlines()[-1])
    return document


@pytest.mark.timeout(400)
async def test_callers_notice_nothing_of_a_shard_that_comes_and_goes(tmp_path: Path) -> None:
    """While 3 shards become 4 and 3 again no call fails, and one order at a time could have told all that was told."""

    async def there_and_back() -> None:
        added = await operate(tmp_path / "data", "start", "add", "--slots-at-once", "64")
        assert added["moved"] == 1_024
        assert (await operate(tmp_path / "data", "verify"))["wrong"] == 0
        back = await operate(tmp_path / "data", "reverse", "--slots-at-once", "64")
        assert back["moved"] == 1_024
        assert (await operate(tmp_path / "data", "verify"))["wrong"] == 0

    flags = ("--workers", str(WORKERS), "--shards", "3", "--cache-ttl-s", str(CACHE_TTL_S), "--no-admission")
    with Crest(HOST, PORT, tmp_path / "data", *flags) as crest:
        crest.wait_serving(WORKERS)
        endpoints = [f"{HOST}:{PORT + 1 + worker}" for worker in range(WORKERS)]
        seen = await watched(
            endpoints, SEED, there_and_back, callers_count=CALLERS, exact_replays=True, timeouts_s=(TIMEOUT_S,)
        )
    report = seen.report
    assert seen.failed == Counter()
    assert report.violations_count == 0, "\n".join(map(str, report.violations[:3]))
    assert (report.missing, report.doubled, report.unsettled, seen.stale) == (0, 0, 0, 0)
    assert report.operations > 500
