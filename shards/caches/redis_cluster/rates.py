"""Counts of callers that all workers share: one key a caller, on the node that has the caller's slot."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

from shards.caches.redis_cluster.masters import Access, Masters, script_name
from shards.caches.redis_cluster.node import refused
from shards.keys import slot_and_tag

_SCRIPT: Final = Path(__file__).with_name("rates.lua").read_bytes()
_SCRIPT_NAME: Final = script_name(_SCRIPT)


class RedisClusterRates:
    """Obeys ``shards.contract.SharedRates``. A node that is away costs nobody more than one answer's timeout."""

    def __init__(self, masters: Masters, *, interval_us: int, burst: int, prefix: str) -> None:
        self._masters = masters
        self._limits = (b"%d" % max(1, interval_us), b"%d" % burst)
        self._prefix = prefix

    @classmethod
    async def open(cls, access: Access, *, interval_us: int, burst: int, prefix: str) -> Self:
        """Connects, for about a second at most; to a cluster that is away as soon as it is there."""
        masters = Masters(access, script=_SCRIPT)
        await masters.open()
        return cls(masters, interval_us=interval_us, burst=burst, prefix=prefix)

    def __repr__(self) -> str:
        return f"RedisClusterRates({self._masters!r})"

    async def take(self, caller_id: str, spent: int, wanted: int) -> tuple[int, float] | None:
        """Counts calls; returns how many of those wanted are granted, and if none is, seconds until one would be."""
        slot, _ = slot_and_tag(caller_id)
        node = self._masters.of(slot)
        key = f"{self._prefix}rate:{{{slot}}}:{caller_id}".encode()
        place = None
        if node is not None:
            place = node.send((b"EVALSHA", _SCRIPT_NAME, b"1", key, *self._limits, b"%d" % spent, b"%d" % wanted))
        if place is None:
            return None
        batch, index = place
        await batch.over()
        if batch.replies is None:
            return None
        reply = batch.replies[index]
        if refused(reply):
            self._masters.suspect()
            return None
        assert isinstance(reply, list), "the script answers two numbers"
        return int(reply[0]), int(reply[1]) / 1e6

    async def close(self) -> None:
        """Lets go of connections. Idempotent."""
        await self._masters.close()
