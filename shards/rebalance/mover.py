"""The mover: a process that leads, or stands by, and does what the record says.

``Mover.run`` takes over again and again: each time it begins an attempt of its own (``term``), which ends when the work
is done or stuck, an operator says something else, or another mover takes over.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Final

from shards.contract import StoreError
from shards.rebalance.fleet import At, Deposed, Fleet, nowhere
from shards.rebalance.home import Book, take_over
from shards.rebalance.leader import Leadership
from shards.rebalance.progress import Progress
from shards.rebalance.record import RebalanceRecord, State
from shards.rebalance.term import Term

_LOOK_S: Final = 0.25

_log = logging.getLogger("crest.rebalance")


class Mover:
    """One mover. For one event loop."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        at: At = nowhere,
        tell: Callable[[Progress], None] = lambda _: None,
        name: str | None = None,
    ) -> None:
        """``tell`` is called with each progress, also with those of a mover that only stands by."""
        self._fleet: Final = fleet
        self._at: Final = at
        self._tell: Final = tell
        self._name: Final = name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._stopping = asyncio.Event()
        self._term: Term | None = None

    def __repr__(self) -> str:
        return f"<Mover {self._name} {self._term!r}>"

    @property
    def name(self) -> str:
        """The mover's name, never used again."""
        return self._name

    def stop(self) -> None:
        """Asks it to leave: slots under way are finished, others are left to the next mover."""
        self._stopping.set()
        if self._term is not None:
            self._term.stop()

    async def run(self, *, stays: bool) -> RebalanceRecord | None:
        """Leads as soon as no other mover does, and works.

        ``stays``: goes on to wait for the next rebalance, until ``stop``. Otherwise returns the record as soon as
        it is paused, cancelled or done, whoever did that; None where there is none.
        """
        while not self._stopping.is_set():
            leadership = Leadership(self._fleet.home, self._name)
            if not await self._unless_over(leadership.win(), stays=stays):
                break
            holding = asyncio.ensure_future(leadership.hold())
            try:
                await self._lead(holding, stays=stays)
            finally:
                holding.cancel()
                await asyncio.wait((holding,))
                with suppress(StoreError):
                    await leadership.leave()
            if not stays and await self._is_over():
                break
        found = await Book(self._fleet.home).read()
        return None if found is None else found[1]

    async def _lead(self, holding: asyncio.Future[None], *, stays: bool) -> None:
        """Works as long as it leads. A term that is deposed by a command is followed by another one."""
        while not self._stopping.is_set() and not holding.done():
            if await self._is_over():
                if not stays:
                    return
                await asyncio.sleep(_LOOK_S)
                continue
            try:
                record = await take_over(self._fleet.home, self._name, self._at)
                if record is None:
                    continue
                self._term = Term(record, self._fleet, self._name, self._at, self._tell)
                if self._stopping.is_set():  # while it took over
                    self._term.stop()
                working = asyncio.ensure_future(self._term.run())
                await asyncio.wait((working, holding), return_when=asyncio.FIRST_COMPLETED)
                if not working.done():
                    working.cancel()  # another one leads: whatever is in flight is fenced off
                    await asyncio.wait((working,))
                if not working.cancelled():
                    working.result()
            except Deposed as reason:
                _log.info("this attempt is over: %s", reason)
            except StoreError as error:
                _log.warning("the rebalance waits: %s", error)
                await asyncio.sleep(_LOOK_S)
            finally:
                self._term = None

    async def _is_over(self) -> bool:
        try:
            found = await Book(self._fleet.home).read()
        except StoreError:
            return False
        return found is None or found[1].state not in {State.RUNNING, State.CANCELLING}

    async def _unless_over(self, winning: Coroutine[object, object, bool], *, stays: bool) -> bool:
        """Waits to lead; False when it was stopped before, or nothing is left to be done."""
        task = asyncio.ensure_future(winning)
        while not task.done():
            await asyncio.wait((task,), timeout=_LOOK_S)
            if not task.done() and (self._stopping.is_set() or (not stays and await self._is_over())):
                task.cancel()
                await asyncio.wait((task,))
                return False
        return task.result()
