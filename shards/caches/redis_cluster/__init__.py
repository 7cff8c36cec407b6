"""The cache that workers on all machines share: a Redis Cluster. ``docs/cache.md`` tells what it promises."""

from shards.caches.redis_cluster.cache import CLOCKS_DIFFER_S, RedisClusterCache
from shards.caches.redis_cluster.masters import Access
from shards.caches.redis_cluster.rates import RedisClusterRates

__all__ = ["CLOCKS_DIFFER_S", "Access", "RedisClusterCache", "RedisClusterRates"]
