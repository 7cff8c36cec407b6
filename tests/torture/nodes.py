"""Death for the nodes that orders are kept on: all of them at once, again and again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from deploy.cluster import Cluster
from tests.support.cassandra_node import kill_all_nodes, revive
from tests.support.waiting import until

ORDERS_BETWEEN: Final = 200
"""So many orders are acknowledged by a cluster that was revived, before it is killed again."""

_LOAD_S: Final = (0.0, 2.0)
"""For a random time between these the load then goes on."""

_REVIVED_TIMEOUT_S: Final = 600.0


class NodeDeaths:
    """Kills every Cassandra node at once with SIGKILL and starts them on their data, so many ``times``."""

    def __init__(self, cluster: Cluster, times: int, seed: int) -> None:
        self.count = 0
        self.is_over = False
        """Whether the nodes have died as often as they were to, and orders were acknowledged since."""
        self._cluster = cluster
        self._times = times
        self._chance = random.Random(seed ^ 0xA11DEAD)

    async def run(self, acknowledged: Callable[[], int]) -> None:
        """Goes through all deaths; ``acknowledged`` counts orders and only rises."""
        await self._wait_for_load(acknowledged)
        while self.count < self._times:
            await asyncio.sleep(self._chance.uniform(*_LOAD_S))  # sleep: the moment of death, not a wait
            await self.strike()
            self.count += 1
            await self._wait_for_load(acknowledged)
        self.is_over = True

    async def strike(self) -> None:
        """Kills all nodes and returns when they serve again."""
        await asyncio.to_thread(kill_all_nodes, self._cluster)
        await asyncio.to_thread(revive, self._cluster)

    async def _wait_for_load(self, acknowledged: Callable[[], int]) -> None:
        goal = acknowledged() + ORDERS_BETWEEN

        async def count() -> int:
            return acknowledged()

        await until(count, lambda orders: orders >= goal, _REVIVED_TIMEOUT_S)
