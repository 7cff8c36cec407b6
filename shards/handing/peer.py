"""One other worker of this server, connected to when it is first needed, and again when that has ended."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from shards.contract import Observer, Row
from shards.handing.link import Link, Owner
from shards.handing.network import Network
from shards.judging import Asker

RETRY_S: Final = 0.25
"""Between two tries to connect."""

_CONNECT_S_MAX: Final = 1.0

_log: Final = logging.getLogger("crest.handing")


class Peer:
    """Hands rows to one other worker. For one event loop."""

    def __init__(self, number: int, network: Network, observer: Observer) -> None:
        self._number = number
        self._network = network
        self._observer = observer
        self._link: Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._retry_s = float("-inf")
        self._is_closed = False

    def __repr__(self) -> str:
        return f"Peer({self._number}, {self._link or 'absent'})"

    def hand(self, owner: Owner, shard: int, row: Row, deadline: float, outcome: Asker) -> bool:
        """See ``Link.hand``; False also while there is no connection, which is made meanwhile."""
        if self._link is None:
            self._connect_soon()
            return False
        return self._link.hand(owner, shard, row, deadline, outcome)

    def close(self) -> None:
        """Lets go of the connection; what is still under way goes back. Idempotent."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._link is not None:
            self._link.end()

    def _connect_soon(self) -> None:
        now_s = time.monotonic()
        if self._connecting is None and now_s >= self._retry_s and not self._is_closed:
            self._retry_s = now_s + RETRY_S
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        link = Link(self._number, self._observer, self._ended)
        try:
            async with asyncio.timeout(_CONNECT_S_MAX):
                await self._network.connect(self._number, lambda: link)
        except (OSError, TimeoutError) as error:
            _log.debug("worker %d cannot be reached: %s", self._number, error)
        else:
            self._link = link if link.is_open else None  # it may have ended again meanwhile
        finally:
            self._connecting = None

    def _ended(self, link: Link) -> None:
        if self._link is link:
            self._link = None
