"""Counts of callers on a real Redis Cluster, and without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from server.admission.rates import RateLimit
from server.rpc.rates import CallerRates
from shards.caches.redis_cluster import RedisClusterRates
from shards.keys import slot_and_tag
from tests.support.redis_nodes import RedisCluster, redis_cluster
from tests.support.waiting import until

HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """One Redis Cluster for all tests here."""
    with redis_cluster(tmp_path_factory.mktemp("redis"), 26_831) as made:
        yield made


@pytest_asyncio.fixture
async def rates(cluster: RedisCluster) -> AsyncIterator[tuple[RedisClusterRates, RedisClusterRates]]:
    """Two workers that count together: a call an hour, 50 at once."""
    cluster.flush()
    opened = [
        await RedisClusterRates.open(cluster.access, interval_us=HOUR_US, burst=50, prefix="test:") for _ in range(2)
    ]
    yield opened[0], opened[1]
    for one in opened:
        await one.close()


async def test_workers_count_together(rates: tuple[RedisClusterRates, RedisClusterRates]) -> None:
    """What one worker was granted is gone for the other; when nothing is left the answer says when there will be."""
    first, second = rates
    assert await first.take("shop", 0, 30) == (30, 0.0)
    assert await second.take("shop", 0, 30) == (20, 0.0)
    granted, retry_s = await first.take("shop", 0, 1) or (None, 0.0)
    assert granted == 0
    assert 3500 < retry_s <= 3600
    assert await first.take("another", 0, 30) == (30, 0.0)


async def test_what_was_spent_counts_beyond_the_burst(rates: tuple[RedisClusterRates, RedisClusterRates]) -> None:
    """Calls that a worker let in by itself are counted, though there is no room: they are paid for later."""
    first, second = rates
    assert await first.take("shop", 52, 10) is not None
    granted, retry_s = await second.take("shop", 0, 1) or (None, 0.0)
    assert granted == 0
    assert 2.9 * 3600 < retry_s <= 3 * 3600


async def test_a_count_is_forgotten_when_it_says_nothing_any_more(cluster: RedisCluster) -> None:
    """A caller's key lives as long as its calls matter, so callers of the past cost nothing."""
    cluster.flush()
    counts = await RedisClusterRates.open(cluster.access, interval_us=100_000, burst=50, prefix="test:")
    assert await counts.take("shop", 0, 10) == (10, 0.0)
    await counts.close()
    key = f"test:rate:{{{slot_and_tag('shop')[0]}}}:shop"
    left_ms = int(cluster.master_of(key.encode()).ask("PTTL", key))
    assert left_ms <= 1001  # 10 calls of 100 ms each


async def test_limits_hold_while_redis_dies_and_comes_back(cluster: RedisCluster) -> None:
    """With Redis killed a caller has its worker's share at once; when Redis is back it is counted there again."""
    cluster.flush()
    shared = await RedisClusterRates.open(cluster.access, interval_us=HOUR_US, burst=20, prefix="test:")
    worker = CallerRates(RateLimit(1 / 3600, 20), 4, shared)  # a share is 5 at once
    now = asyncio.get_running_loop().time
    assert worker.check("shop", 1, now()) is None

    async def granted() -> int:
        return worker._rates._callers["shop"].granted

    await until(granted, lambda cells: cells > 0)
    for node in cluster.nodes:
        node.kill()
    assert await until(lambda: shared.take("anyone", 0, 1), lambda answer: answer is None) is None
    let_in = sum(worker.check("late", 1, now()) is None for _ in range(100))
    assert let_in == 5
    refusal = worker.check("late", 1, now())
    assert refusal is not None
    assert refusal.reason == "RATE_LIMITED"
    cluster.revive()
    cluster.wait_whole()
    await until(lambda: shared.take("anyone", 0, 1), lambda answer: answer is not None, timeout_s=60)
    await worker.close()
