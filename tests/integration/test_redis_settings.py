"""A worker's router with the shared cache, as the settings ask for it."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from server.config import load
from server.worker import storage_settings
from shards.assembly import StorageSettings, open_rates, open_router, prepare
from shards.contract import Consistency, Unavailable, Verdict
from tests.support.observers import Notes
from tests.support.redis_nodes import RedisCluster, redis_cluster
from tests.support.rows import new_row, soon
from tests.support.waiting import until

RIGHTS = ("~shop:*", "+get", "+evalsha", "+script|load", "+cluster|slots", "+getrange", "+set", "+time")
"""Those that docs/cache.md asks for, with a rate limit."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A Redis Cluster with a user of few rights."""
    with redis_cluster(tmp_path_factory.mktemp("redis"), 26_851) as made:
        for node in made.nodes:
            node.ask("ACL", "SETUSER", "shop", "reset", "on", ">secret", *RIGHTS)
        yield made


@pytest.fixture
def settings(cluster: RedisCluster, tmp_path: Path) -> StorageSettings:
    """Settings as an operator gives them."""
    (tmp_path / "password").write_text("secret\n")
    flags = {
        "data_dir": str(tmp_path / "data"),
        "shards": 1,
        "cache": "redis_cluster",
        "redis_seeds": ",".join(node.endpoint for node in cluster.nodes[:2]),
        "redis_prefix": "shop:",
        "redis_username": "shop",
        "redis_password_file": str(tmp_path / "password"),
        "cache_ttl_s": 600,
    }
    settings = storage_settings(load(flags, {}, None))
    os.close(prepare(settings))
    return settings


async def test_workers_share_what_one_has_read(settings: StorageSettings) -> None:
    """An order that one worker has read is answered by another from Redis, without a read of the store."""
    notes = Notes()
    writer, reader, other = [await open_router(settings, noted) for noted in (Notes(), Notes(), notes)]
    row = new_row()
    outcome = await writer.write(row.key.order_id, row.customer, row.marks, row.body, soon())
    assert outcome.verdict is Verdict.APPLIED
    assert await reader.read(row.key.order_id, Consistency.CACHED, deadline=soon()) == row
    await reader.close()  # which hands over what is on its way to Redis
    assert await other.read(row.key.order_id, Consistency.CACHED, deadline=soon()) == row
    assert notes.cache_events == {"hit": 1}
    assert notes.store_calls == []
    await other.close()
    await writer.close()


async def test_callers_are_counted_with_the_same_rights(settings: StorageSettings) -> None:
    """The rights that the documents name are enough for counting callers, too."""
    rates = await open_rates(settings, interval_us=3_600_000_000, burst=50)
    assert rates is not None
    assert await rates.take("shop", 0, 30) == (30, 0.0)
    await rates.close()


async def test_a_wrong_password_is_a_cache_that_is_away(settings: StorageSettings, tmp_path: Path) -> None:
    """With a password that Redis refuses orders are written and read all the same, and errors are reported."""
    (tmp_path / "password").write_text("wrong")
    notes = Notes()
    router = await open_router(replace(settings, cache_rows_max=0), notes)
    row = new_row()
    await router.write(row.key.order_id, row.customer, row.marks, row.body, soon())
    assert await router.read(row.key.order_id, Consistency.CACHED, deadline=soon()) == row
    assert notes.cache_events["error"]
    await router.close()


async def test_a_password_file_that_is_not_there_is_named(settings: StorageSettings, tmp_path: Path) -> None:
    """A worker that cannot read its password says which file it is."""
    missing = tmp_path / "missing"
    with pytest.raises(Unavailable, match=str(missing)):
        await open_router(replace(settings, redis_password_file=missing), Notes())


async def test_without_a_cache_the_store_is_read(settings: StorageSettings) -> None:
    """The cache ``none`` remembers nothing."""
    notes = Notes()
    router = await open_router(replace(settings, cache="none"), notes)
    row = new_row()
    await router.write(row.key.order_id, row.customer, row.marks, row.body, soon())

    async def read_twice() -> list[tuple[int, str, str]]:
        for _ in range(2):
            assert await router.read(row.key.order_id, Consistency.CACHED, deadline=soon(30)) == row
        return [call for call in notes.store_calls if call[1] == "read"]

    assert await until(read_twice, bool) == [(0, "read", ""), (0, "read", "")]
    assert notes.cache_events["hit"] == 0
    await router.close()


def test_settings_that_cannot_be_are_refused() -> None:
    """A cache that is not known, or a shared one without its nodes, is refused with what there is."""
    with pytest.raises(ValueError, match="there are local, redis_cluster, none"):
        StorageSettings(data_dir=Path(), cache="memory")
    with pytest.raises(ValueError, match="needs redis_seeds"):
        StorageSettings(data_dir=Path(), cache="redis_cluster")
