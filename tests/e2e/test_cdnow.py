"""A real purchase history goes in through the command line and comes back intact, while processes are killed."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from clients import Order, OrderClient, RetryPolicy
from deploy.cluster import Cluster
from tests.support import cdnow
from tests.support.addresses import loopback
from tests.support.cassandra_node import kill_all_nodes, revive
from tests.support.crest import Crest
from tests.support.deadlines import eventually
from tests.support.storage import STORAGES, storage

HOST = loopback(25)
PORT = 20500
WORKERS = 4
ORDERS = 6_919
LOAD_S = 23.0
"""What the load is throttled to on a machine that boots a worker in a second or two; a slower one gets longer."""
KILLS_MIN = 15
LOADER_KILLED_AT = 8
"""The loader dies after so many workers have."""
NODES_KILLED_AT = (4, 11)
"""And all nodes of the store at once, where it has any."""


class Loader:
    """``python -m clients load`` in a process of its own."""

    def __init__(self, file: Path, rate: float) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "clients", "load", str(file), "--rate", str(rate), "--json"),
                *("--endpoint", f"{HOST}:{PORT}"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.is_running:
            self.kill()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Ends it with -9."""
        self._process.kill()
        self._process.communicate()

    def summary(self) -> dict[str, Any]:
        """Returns what it printed at its end, which has to be a good one."""
        out, err = self._process.communicate()
        assert self._process.returncode == 0, f"exit code {self._process.returncode}\n{out}\n{err}"
        return dict(json.loads(out))


def kill_a_worker(server: Crest) -> None:
    """Kills the worker that has lived longest with -9, as soon as another one serves too: so each gets its turn.

    With a store whose nodes have just died the first to serve again may take a while.
    """

    def serving() -> list[psutil.Process] | None:
        ready = {line["pid"] for line in server.logged("a child is ready")}
        found = [child for child in server.children() if child.pid in ready and is_worker(child)]
        return found if len(found) > 1 else None

    oldest = min(eventually(serving, "two workers that serve", 240), key=lambda worker: worker.create_time())
    with contextlib.suppress(psutil.NoSuchProcess):  # it was dead, and has been reaped since
        oldest.kill()
        oldest.wait(60)


def load_among_deaths(server: Crest, nodes: Cluster | None, file: Path, rate: float) -> tuple[int, dict[str, Any]]:
    """Loads the file with two loaders, the first of which dies; returns how many workers died, and the summary.

    If there are nodes, all of them die at once while each loader is at work.
    """
    kills = 0
    with Loader(file, rate) as first:
        while kills < LOADER_KILLED_AT:
            time.sleep(1.0)  # sleep: the pace of the deaths
            if nodes is not None and kills == NODES_KILLED_AT[0]:
                kill_all_nodes(nodes)
                revive(nodes)
            kill_a_worker(server)
            kills += 1
        assert first.is_running, "the load was over before its death"
    with Loader(file, rate) as second:
        while second.is_running:
            if nodes is not None and kills == NODES_KILLED_AT[1]:
                kill_all_nodes(nodes)
                revive(nodes)
            kill_a_worker(server)
            kills += 1
            time.sleep(1.0)  # sleep: the pace of the deaths
        assert nodes is None or kills > NODES_KILLED_AT[1], "the load was over before the second death of all nodes"
        return kills, second.summary()


def is_worker(process: psutil.Process) -> bool:
    """Whether a child of the supervisor is a worker."""
    try:
        return "server.worker" in process.cmdline()
    except psutil.Error:  # it ended while we looked
        return False


async def orders_by_customer(customers: set[str]) -> dict[str, list[Order]]:
    """Lists the orders of each customer."""
    places = asyncio.Semaphore(8)
    async with OrderClient(f"{HOST}:{PORT}", policy=RetryPolicy(attempts_max=50), deadline_s=60) as client:

        async def listed(customer: str) -> tuple[str, list[Order]]:
            async with places:
                return customer, [order async for order in client.list(customer, page_size=7)]

        return dict(await asyncio.gather(*map(listed, customers)))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", STORAGES)
def test_a_purchase_history_survives_the_death_of_everybody(store: str, tmp_path: Path) -> None:
    """With a worker killed every second, the loader once, and all Cassandra nodes at once and twice, each of 6,919
    purchases is one order of its customer.
    """
    kept = storage(store)
    file = tmp_path / "cdnow.csv"
    cdnow.write_csv(file)
    expected: defaultdict[str, Counter[tuple[int, str, str]]] = defaultdict(Counter)
    for purchase in cdnow.purchases():
        expected[purchase.customer_id][purchase.total_minor, str(purchase.cds), purchase.placed_on] += 1

    with Crest(HOST, PORT, tmp_path / "data", "--workers", str(WORKERS), *kept.flags) as server:
        begun = time.monotonic()
        server.wait_serving(WORKERS)
        boot_s = time.monotonic() - begun
        begun = time.monotonic()
        # Measured on an idle and on a busy machine: a worker is back within a fifth of the time of the first boot.
        load_s = max(LOAD_S, KILLS_MIN * max(1.0, boot_s / 5) * 1.3)
        kills, summary = load_among_deaths(server, kept.nodes, file, ORDERS / load_s)
        took_s = time.monotonic() - begun
        found = asyncio.run(orders_by_customer(set(expected)))

    assert took_s >= 20
    assert kills >= KILLS_MIN
    assert summary["finished"]
    assert summary["loaded"] == summary["orders_in_file"] == ORDERS
    assert summary["earlier"] > 0, "the second loader sent everything once more"
    assert summary["rejected_rows"] == 0

    orders = [order for listed in found.values() for order in listed]
    assert len(orders) == len({order.order_id for order in orders}) == ORDERS
    assert len(found) == 2_357
    assert sum(order.total_minor for order in orders) == sum(each.total_minor for each in cdnow.purchases())
    assert summary["sum_minor"] == {"USD": sum(order.total_minor for order in orders)}
    for customer, listed in found.items():
        assert all(order.customer_id == customer and order.currency_code == "USD" for order in listed)
        assert [order.order_id for order in listed] == sorted((order.order_id for order in listed), reverse=True)
        seen = Counter((o.total_minor, o.attributes["cds"], o.attributes["placed_on"]) for o in listed)
        assert seen == expected[customer], customer
    print(f"{kills} workers and 1 loader killed in {took_s:.1f} s; the last run: {summary}")
