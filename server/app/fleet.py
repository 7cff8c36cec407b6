"""The workers of this server, as their supervisor last told."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from typing import NamedTuple


class WorkerState(enum.Enum):
    """What a worker is doing."""

    STARTING = "STARTING"
    SERVING = "SERVING"
    DRAINING = "DRAINING"


class WorkerInfo(NamedTuple):
    """One worker: its number from 0, the ``host:port`` of its own endpoint, and what it is doing."""

    id: int
    address: str
    state: WorkerState


class Fleet:
    """Holds the present workers and lets tasks wait for the next change."""

    def __init__(self) -> None:
        self.workers: tuple[WorkerInfo, ...] = ()
        self.revision = 0
        self._changed = asyncio.Event()

    def update(self, workers: Sequence[WorkerInfo]) -> None:
        """Takes the complete list; wakes who waits when it differs from the one before."""
        if self.workers == tuple(workers):
            return
        self.workers = tuple(workers)
        self.revision += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, seen: int) -> int:
        """Returns the revision as soon as it is another than ``seen``."""
        while self.revision == seen:
            await self._changed.wait()
        return self.revision
