"""A shard is added and taken back from a terminal, while callers order, change and read."""

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from clients import Consistency, OrderClient, OrderLine
from tests.support.crest import Crest

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.49"
PORT = 24_600
CALLERS = 6


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


@pytest.mark.timeout(180)
async def test_callers_notice_nothing_of_a_shard_that_comes_and_goes(tmp_path: Path) -> None:
    """While 3 shards become 4 and 3 again no call fails, no acknowledged order is missing, older, or listed twice."""
    acknowledged: dict[str, tuple[str, int]] = {}
    done = asyncio.Event()

    async def call(client: OrderClient, number: int) -> None:
        for count in range(100_000):
            if done.is_set():
                return
            customer = f"customer-{number}-{count % 40}"
            order = (await client.create(customer, "EUR", [OrderLine("tea", 1, 450)])).order
            acknowledged[order.order_id] = (customer, 1)
            if count % 3 == 0:
                paid = await client.confirm_payment(order.order_id)
                acknowledged[order.order_id] = (customer, paid.order.version)
            read = await client.get(order.order_id, consistency=Consistency.STRONG)
            assert read.version >= acknowledged[order.order_id][1]
            await asyncio.sleep(0.02)  # sleep: the pace of a caller

    with Crest(HOST, PORT, tmp_path / "data", "--workers", "2", "--shards", "3") as crest:
        crest.wait_serving(2)
        async with OrderClient(f"{HOST}:{PORT}") as client, asyncio.TaskGroup() as callers:
            for number in range(CALLERS):
                callers.create_task(call(client, number))
            added = await operate(tmp_path / "data", "start", "add", "--slots-at-once", "64")
            assert added["moved"] == 1_024
            assert (await operate(tmp_path / "data", "verify"))["wrong"] == 0
            back = await operate(tmp_path / "data", "reverse", "--slots-at-once", "64")
            assert back["moved"] == 1_024
            done.set()
        async with OrderClient(f"{HOST}:{PORT}") as client:
            for order_id, (_, version) in acknowledged.items():
                assert (await client.get(order_id, consistency=Consistency.STRONG)).version >= version
            expected = Counter(customer for customer, _ in acknowledged.values())
            for customer, orders in expected.items():
                listed = [order.order_id async for order in client.list(customer)]
                assert len(listed) == len(set(listed)) == orders
    assert len(acknowledged) > 100
