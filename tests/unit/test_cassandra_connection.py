"""How long a store that opens waits for its cluster."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from shards.contract import Unavailable
from shards.settings import CassandraSettings
from shards.stores.cassandra import connection
from shards.stores.cassandra.connection import Connection, Link
from tests.simulation import virtual_time

SETTINGS = CassandraSettings(("127.0.0.1",), keyspace="crest", replication={"datacenter1": 1})
LINK = cast("Link", SimpleNamespace(findings=SimpleNamespace(warnings=())))
PATIENCE_S = 3.0


@pytest.mark.parametrize(
    ("tries", "returns_after_s", "is_linked"),
    [
        # each try: how long it takes, and whether it succeeds; all later ones are as the last
        ([(1.0, True)], 1.0, True),
        ([(8.0, True)], 8.0, True),
        ([(8.0, False)], 8.0, False),
        ([(0.1, False), (60.0, True)], PATIENCE_S, False),
        ([(0.1, False), (0.1, True)], 0.7, True),
        ([(1_000.0, True)], 20.0, False),
    ],
)
def test_slow_is_not_away(
    monkeypatch: pytest.MonkeyPatch, tries: list[tuple[float, bool]], returns_after_s: float, is_linked: bool
) -> None:
    """Opening waits for a cluster that is slow to answer, and for one that is away no longer than it was told."""

    async def play() -> tuple[float, bool]:
        left = list(tries)

        async def connect(_: Connection) -> Link:
            seconds, succeeds = left.pop(0) if len(left) > 1 else left[0]
            await asyncio.sleep(seconds)  # sleep: simulated, what a driver takes
            if not succeeds:
                raise Unavailable("away")
            return LINK

        monkeypatch.setattr(Connection, "_try", connect)
        monkeypatch.setattr(connection, "_JITTER", 0.0)
        opened = Connection(SETTINGS, "shard 0")
        began_s = asyncio.get_running_loop().time()
        await opened.open(PATIENCE_S)
        took_s = asyncio.get_running_loop().time() - began_s
        assert opened._connecting is not None
        opened._connecting.cancel()
        return took_s, opened._link is LINK

    took_s, linked = virtual_time.run(play())
    assert (round(took_s, 1), linked) == (returns_after_s, is_linked)
