"""One master of a Redis Cluster: a connection, and the commands that wait for it.

While commands are under way the next ones gather, and then go together: one write, one wait and one timeout for all of
them, and one command for a key that many ask for. A command never waits for a connection: where there is none it
fails at once, and whoever looks after the node (``masters``) makes one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeAlias

from hiredis import ReplyError

from shards.caches.redis_cluster.wire import Command, Lost, Reply

BATCH_COMMANDS_MAX: Final = 256
"""Commands sent together: about 8 ms of our own time, so that the last one's answer is not late by our doing."""

BATCHES_MAX: Final = 64
"""Batches that wait: 16,384 commands, more than callers a worker takes. Beyond it a command fails at once."""

REST_S_MIN: Final = 0.25
REST_S_MAX: Final = 4.0
"""How long a node that failed is left alone, doubled each time it fails again, between these."""

_REST_DOUBLINGS_MAX: Final = 4  # 0.25 s doubled four times is REST_S_MAX
_PROVEN_S: Final = 5.0
"""A node that has answered for so long has recovered: its next failure counts as a first one."""


class Connection(Protocol):
    """What is used of ``wire.Wire``."""

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""

    def send(self, commands: Sequence[Command]) -> asyncio.Future[Sequence[Reply]]:
        """Sends commands at once and returns what will be their replies. It, and what it returns, raises ``Lost``."""

    def close(self) -> None:
        """Closes; what is under way fails."""

    async def wait_closed(self) -> None:
        """Returns when it is closed."""


class Batch:
    """Commands that are sent together."""

    __slots__ = ("_waiting", "commands", "is_over", "look_ups", "replies")

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.look_ups: dict[bytes, int] = {}
        """The place of each key's GET, so that it is sent once."""
        self.is_over = False
        self.replies: Sequence[Reply] | None = None
        """In the order of the commands, once over; None when the node failed."""
        self._waiting: list[asyncio.Future[None]] = []

    def over(self) -> asyncio.Future[None]:
        """Returns what is done when the batch is; not to be asked of one that is. It may be cancelled."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def end(self, replies: Sequence[Reply] | None) -> None:
        """Tells all who wait."""
        self.is_over, self.replies = True, replies
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()


Place: TypeAlias = tuple[Batch, int]
"""Where a reply will be found: when the batch is over, at this index of the replies, if there are any."""


class Node:
    """One master. For one event loop. ``on_loss`` is called whenever the connection was lost."""

    def __init__(
        self,
        address: tuple[str, int],
        connect: Callable[[tuple[str, int]], Awaitable[Connection]],
        *,
        script: bytes,
        answer_timeout_s: float,
        on_loss: Callable[[], None],
    ) -> None:
        """``connect`` opens a connection or raises ``Lost``; ``script`` is loaded before anything else is sent."""
        self.address: Final = address
        self._connect = connect
        self._script = script
        self._answer_timeout_s = answer_timeout_s
        self._on_loss = on_loss
        self._connection: Connection | None = None
        self._connected_at = 0.0
        self._waiting: deque[Batch] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._failures = 0
        self._rest_until = float("-inf")

    def __repr__(self) -> str:
        waiting = sum(len(batch.commands) for batch in self._waiting)
        state = "connected" if self.connected else f"lost, {self._failures} failures"
        return f"<Node {self.address[0]}:{self.address[1]}, {state}, {waiting} commands wait>"

    @property
    def connected(self) -> bool:
        """Whether commands are taken."""
        return self._connection is not None and not self._connection.closed

    async def revive(self) -> bool:
        """Connects when there is no connection and the node has rested; returns whether there is one."""
        if self.connected:
            return True
        if time.monotonic() < self._rest_until:
            return False
        try:
            connection = await self._connect(self.address)
        except Lost:
            self._rest()
            return False
        try:
            await self._answers(connection, [(b"SCRIPT", b"LOAD", self._script)])
            self._connection = connection
            self._connected_at = time.monotonic()
        except Lost:
            self._rest()
        finally:
            if self._connection is not connection:
                connection.close()
        return self._connection is connection

    def look_up(self, key: bytes) -> Place | None:
        """Asks for the value of a key; None when it cannot be asked now."""
        batch = self._gathering()
        if batch is None:
            return None
        index = batch.look_ups.get(key)
        if index is None:
            index = batch.look_ups[key] = len(batch.commands)
            batch.commands.append((b"GET", key))
        return batch, index

    def send(self, command: Command) -> Place | None:
        """Sends a command, which must change nothing when it is sent again; None when it cannot be sent now."""
        batch = self._gathering()
        if batch is None:
            return None
        batch.commands.append(command)
        return batch, len(batch.commands) - 1

    async def ask(self, *command: bytes) -> Reply:
        """Returns the answer to one command, past those that wait. Raises ``Lost``."""
        connection = self._connection
        if connection is None:
            raise Lost(f"{self!r}")
        try:
            return (await self._answers(connection, [command]))[0]
        except Lost:
            self._lose(connection)
            raise

    async def close(self) -> None:
        """Lets go of the connection; what waits or is under way fails. Idempotent."""
        connection, self._connection = self._connection, None
        self._fail_waiting()
        if connection is not None:
            connection.close()
            await connection.wait_closed()
        if self._pump is not None:
            await asyncio.wait((self._pump,))

    def _gathering(self) -> Batch | None:
        """Returns the batch that gathers, and sees to it that it will be sent."""
        connection = self._connection
        if connection is None:
            return None
        if connection.closed:
            self._lose(connection)
            return None
        waiting = self._waiting
        if not waiting or len(waiting[-1].commands) >= BATCH_COMMANDS_MAX:
            if len(waiting) >= BATCHES_MAX:
                return None
            waiting.append(Batch())
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._run())
        return waiting[-1]

    async def _run(self) -> None:
        """Sends what waits, batch after batch, until nothing does."""
        try:
            while self._waiting and (connection := self._connection) is not None:
                batch = self._waiting.popleft()
                replies = None
                try:
                    replies = await self._exchange(connection, batch.commands)
                except Lost:
                    self._lose(connection)
                finally:
                    batch.end(replies)
        finally:
            self._pump = None
            self._fail_waiting()

    async def _exchange(self, connection: Connection, commands: Sequence[Command]) -> Sequence[Reply]:
        """Returns the replies; a node that has forgotten the script is given it and asked again."""
        replies = list(await self._answers(connection, commands))
        again = [index for index, reply in enumerate(replies) if refused(reply, "NOSCRIPT")]
        if again:
            load = (b"SCRIPT", b"LOAD", self._script)
            _, *later = await self._answers(connection, [load, *(commands[index] for index in again)])
            for index, reply in zip(again, later, strict=True):
                replies[index] = reply
        if self._failures and time.monotonic() - self._connected_at > _PROVEN_S:
            self._failures = 0
        return replies

    async def _answers(self, connection: Connection, commands: Sequence[Command]) -> Sequence[Reply]:
        """Sends commands and returns their replies. Raises ``Lost``."""
        answered = connection.send(commands)
        watch = asyncio.get_running_loop().call_later(self._answer_timeout_s / 2, self._watch, answered)
        try:
            return await answered
        finally:
            watch.cancel()
            answered.cancel()

    def _watch(self, answered: asyncio.Future[Sequence[Reply]]) -> None:
        """Waits for the other half of the time: a stall of our own event loop ends one half at once."""
        asyncio.get_running_loop().call_later(self._answer_timeout_s / 2, self._give_up, answered)

    def _give_up(self, answered: asyncio.Future[Sequence[Reply]]) -> None:
        if not answered.done():
            answered.set_exception(Lost(f"{self.address} did not answer within {self._answer_timeout_s} s"))

    def _lose(self, connection: Connection) -> None:
        """Gives a connection up, once, however many notice."""
        if self._connection is not connection:
            return
        self._connection = None
        connection.close()
        self._rest()
        self._fail_waiting()
        self._on_loss()

    def _rest(self) -> None:
        rest_s = REST_S_MIN * 2.0 ** min(self._failures, _REST_DOUBLINGS_MAX)
        self._failures += 1
        self._rest_until = time.monotonic() + min(rest_s, REST_S_MAX)

    def _fail_waiting(self) -> None:
        while self._waiting:
            self._waiting.popleft().end(None)


def refused(reply: Reply, word: str = "") -> bool:
    """Tells whether Redis refused a command, with this word (MOVED, NOSCRIPT, ...)."""
    return isinstance(reply, ReplyError) and str(reply).startswith(word)
