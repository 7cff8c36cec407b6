"""Opens what is shared in memory: caches, and the counts of callers."""

from __future__ import annotations

from pathlib import Path

from shards.assembly.storage import StorageSettings
from shards.caches.layered import LayeredCache
from shards.caches.local import LocalCache
from shards.caches.redis_cluster import Access, RedisClusterCache, RedisClusterRates
from shards.contract import Cache, Observer, SharedRates, Unavailable


async def open_cache(settings: StorageSettings, observer: Observer) -> Cache:
    """Returns the cache, also when what it is kept in is away. Raises ``Unavailable`` for a password not to be read."""
    near = LocalCache(
        rows_max=0 if settings.cache == "none" else settings.cache_rows_max,
        bytes_max=settings.cache_bytes_max,
        ttl_s=settings.cache_ttl_s,
    )
    if settings.cache != "redis_cluster":
        return near
    far = await RedisClusterCache.open(
        _access(settings), observer, ttl_s=settings.cache_ttl_s, prefix=settings.redis_prefix
    )
    return LayeredCache(near, far, observer)


async def open_rates(settings: StorageSettings, *, interval_us: int, burst: int) -> SharedRates | None:
    """Returns the counts of callers that all workers share, also when they are away; None where there is no Redis.

    A caller may call once in ``interval_us`` microseconds, and ``burst`` times at once. Raises ``Unavailable`` for a
    password not to be read.
    """
    if not settings.redis_seeds:
        return None
    return await RedisClusterRates.open(
        _access(settings), interval_us=interval_us, burst=burst, prefix=settings.redis_prefix
    )


def _access(settings: StorageSettings) -> Access:
    return Access(
        seeds=settings.redis_seeds,
        username=settings.redis_username or None,
        password=_first_line(settings.redis_password_file),
    )


def _first_line(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text().partition("\n")[0].strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"the Redis password in {file} cannot be read: {error}") from error
