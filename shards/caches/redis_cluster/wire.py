"""One connection to a node of Redis: commands go out in groups, and the replies to a group come back together.

RESP 2 (https://redis.io/docs/latest/develop/reference/protocol-spec/), packed and parsed by hiredis. Redis answers in
the order of asking, so a group needs one write, one future and as a rule one wake-up, however many commands it has.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias, cast

from hiredis import ProtocolError, Reader, ReplyError, pack_command

Address: TypeAlias = tuple[str, int]
Command: TypeAlias = tuple[bytes, ...]
Reply: TypeAlias = object
"""What Redis answered to one command; a ``ReplyError`` when it refused that command."""

_NOTHING_YET: Final = object()


class Lost(Exception):
    """The connection did not answer in time, or broke. What was sent may yet be done by the node."""


class _Group:
    """Commands sent together."""

    __slots__ = ("answered", "count", "replies")

    def __init__(self, count: int, answered: asyncio.Future[Sequence[Reply]]) -> None:
        self.count = count
        self.replies: list[Reply] = []
        self.answered = answered


class Wire(asyncio.Protocol):
    """A connection, of one event loop. Made by ``connect``."""

    def __init__(self) -> None:
        self._reader = Reader(notEnoughData=_NOTHING_YET)
        self._groups: deque[_Group] = deque()  # the first is being answered; as many as whoever sends allows itself
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()

    def __repr__(self) -> str:
        return f"<Wire, {'closed' if self.closed else 'open'}, {len(self._groups)} groups under way>"

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport is None or self._transport.is_closing()

    def send(self, commands: Sequence[Command]) -> asyncio.Future[Sequence[Reply]]:
        """Sends commands, at least one, and returns what will be their replies, in order.

        It raises ``Lost`` when the connection ends before, as this does when it has ended. It may be cancelled.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise Lost("the connection is closed")
        transport.write(b"".join([pack_command(command) for command in commands]))  # type: ignore[arg-type]  # any tuple
        group = _Group(len(commands), self._loop.create_future())
        self._groups.append(group)
        return group.answered

    def close(self) -> None:
        """Closes; what is under way fails. Idempotent."""
        self._fail("the connection was closed")
        if self._transport is not None:
            self._transport.abort()  # nobody waits for what is not written yet

    async def wait_closed(self) -> None:
        """Returns when it is closed."""
        if self._transport is not None:
            await asyncio.shield(self._over)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop with what has come."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOTHING_YET:
                self._take(reply)
        except ProtocolError as error:
            self._fail(f"not the protocol of Redis: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop, once."""
        self._fail(f"the connection broke: {exc or 'the node closed it'}")
        self._over.set_result(None)

    def _take(self, reply: Reply) -> None:
        if not self._groups:
            raise ProtocolError("a reply to nothing")
        group = self._groups[0]
        group.replies.append(reply)
        if len(group.replies) == group.count:
            self._groups.popleft()
            if not group.answered.done():
                group.answered.set_result(group.replies)

    def _fail(self, why: str) -> None:
        while self._groups:
            answered = self._groups.popleft().answered
            if not answered.done():
                answered.set_exception(Lost(why))
                answered.exception()  # looked at: whoever asked may have left


async def connect(address: Address, *, username: str | None, password: str | None, timeout_s: float) -> Wire:
    """Opens a connection, as a user where a password is given. Raises ``Lost``, after ``timeout_s`` at the latest."""
    wire: Wire | None = None
    try:
        async with asyncio.timeout(timeout_s):
            _, wire = await asyncio.get_running_loop().create_connection(Wire, *address)
            if password is not None:
                await _authenticate(wire, username, password)
    except BaseException as error:
        if wire is not None:
            wire.close()
        if isinstance(error, OSError | TimeoutError | UnicodeError | Lost):  # UnicodeError: what can be no host name
            raise Lost(f"{address}: {error!r}") from error
        raise
    return wire


async def _authenticate(wire: Wire, username: str | None, password: str) -> None:
    words = (password,) if username is None else (username, password)
    [reply] = await wire.send([(b"AUTH", *(word.encode() for word in words))])
    if isinstance(reply, ReplyError):
        raise Lost(f"it refused the password: {reply}")
