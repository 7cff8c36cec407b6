"""A TCP proxy that can be told to be a bad network."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, Self

_CHUNK_BYTES: Final = 65_536


class Proxy:
    """Forwards connections to ``host:port`` on to ``target``. An async context manager.

    ``delay_s`` holds every chunk back for so long, in both directions. Bounds are those of the two sockets: nothing is
    read that the other side has not taken.
    """

    def __init__(self, host: str, port: int, target: tuple[str, int]) -> None:
        self.delay_s = 0.0
        self.refused = 0
        """Connections that were ended at once, ever."""
        self._host = host
        self._port = port
        self._target = target
        self._dropping = False
        self._refusing = False
        self._links: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def __repr__(self) -> str:
        state = "cut" if self._refusing else "dropping replies" if self._dropping else f"delay {self.delay_s:g} s"
        return f"<Proxy {self.endpoint} to {self._target[0]}:{self._target[1]}, {len(self._links)} links, {state}>"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._link, self._host, self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None, "it was entered"
        self._server.close()
        self._refusing = True
        await self._end_links()
        await self._server.wait_closed()

    @property
    def endpoint(self) -> str:
        """Where to connect, ``host:port``."""
        return f"{self._host}:{self._port}"

    def drop_replies(self) -> None:
        """Swallows what the target answers from now on; what is asked still reaches it.

        A stream with a hole is of no use: these connections end when ``heal`` is called.
        """
        self._dropping = True

    def cut(self) -> None:
        """Ends all connections, and each new one at once."""
        self._refusing = True
        self._cancel_links()

    def heal(self) -> None:
        """Lets everything through again."""
        if self._dropping:
            self._cancel_links()
        self._dropping = self._refusing = False
        self.delay_s = 0.0

    def _cancel_links(self) -> None:
        for link in self._links:
            link.cancel()

    async def _end_links(self) -> None:
        self._cancel_links()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None, "a server's callback is a task"
        self._links.add(link)
        try:
            if self._refusing:
                self.refused += 1
            else:
                await self._join(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # one side has gone, or ``cut`` ends this link: either way that is all there is to do
        finally:
            self._links.discard(link)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection(*self._target)
        try:
            ways = [
                asyncio.create_task(self._forward(reader, target_writer, replies=False)),
                asyncio.create_task(self._forward(target_reader, writer, replies=True)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            target_writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        """Forwards until the sender ends; then what it sent is delivered before the link ends."""
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)  # sleep: this is the delay itself
                if replies and self._dropping:
                    continue
                writer.write(chunk)
                await writer.drain()
