"""The caches that the suite holds to the law, and how each is opened upon a Redis Cluster that is there."""

from collections.abc import Awaitable, Callable
from typing import Final

from shards.caches.layered import LayeredCache
from shards.caches.local import LocalCache
from shards.caches.redis_cluster import RedisClusterCache
from shards.contract import Cache
from tests.support.observers import Notes
from tests.support.redis_nodes import RedisCluster

TTL_S: Final = 300.0
"""Longer than any test."""


async def local(_: RedisCluster) -> Cache:
    """In the process."""
    return LocalCache(rows_max=10_000, bytes_max=1 << 28, ttl_s=TTL_S)


async def redis(cluster: RedisCluster) -> RedisClusterCache:
    """In Redis alone."""
    return await RedisClusterCache.open(cluster.access, Notes(), ttl_s=TTL_S, prefix="law:")


async def layered(cluster: RedisCluster) -> Cache:
    """In both, as a server has it."""
    return LayeredCache(await local(cluster), await redis(cluster), Notes())


CACHES: Final[dict[str, Callable[[RedisCluster], Awaitable[Cache]]]] = {
    "local": local,
    "redis_cluster": redis,
    "layered": layered,
}
