"""The bad network of the tests is as bad as it is told to be."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.proxy import Proxy
from tests.support.waiting import until

HOST = "127.0.0.29"


class Echo:
    """Answers every line by itself, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        while line := await reader.readline():
            self.asked.append(line)
            writer.write(line)
            await writer.drain()
        writer.close()


@pytest.fixture
async def echo() -> Echo:
    """What stands behind the proxy."""
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    """A proxy before the echo."""
    server = await asyncio.start_server(echo.serve, HOST, 0)
    async with server, Proxy(HOST, 0, server.sockets[0].getsockname()[:2]) as opened:
        yield opened


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection through the proxy."""
    host, port = proxy.endpoint.split(":")
    return await asyncio.open_connection(host, int(port))


async def ask(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: bytes) -> bytes:
    """The answer to a line; empty when the connection ends first."""
    reader, writer = connection
    try:
        writer.write(line)
        return await asyncio.wait_for(reader.readline(), 10)
    except ConnectionError:
        return b""


async def test_everything_passes(proxy: Proxy) -> None:
    """What is sent arrives, both ways, on several connections, however much it is."""
    connections = [await connect(proxy) for _ in range(3)]
    lines = [bytes([65 + number]) * 60_000 + b"\n" for number in range(3)]
    assert await asyncio.gather(*map(ask, connections, lines)) == lines
    for _, writer in connections:
        writer.close()


async def test_delay_holds_back(proxy: Proxy) -> None:
    """A delay is passed twice by a question and its answer."""
    connection = await connect(proxy)
    proxy.delay_s = 0.05
    started = time.monotonic()
    assert await ask(connection, b"late\n") == b"late\n"
    assert time.monotonic() - started >= 0.1
    connection[1].close()


async def test_dropped_replies_were_asked_for(proxy: Proxy, echo: Echo) -> None:
    """While replies are dropped questions still arrive, and such a connection ends when that is over."""
    connection = await connect(proxy)
    assert await ask(connection, b"one\n") == b"one\n"
    proxy.drop_replies()
    answer = asyncio.ensure_future(ask(connection, b"two\n"))

    async def asked() -> int:
        return len(echo.asked)

    await until(asked, lambda count: count == 2)
    assert not answer.done()
    proxy.heal()
    assert await answer == b""
    again = await connect(proxy)
    assert await ask(again, b"three\n") == b"three\n"
    for _, writer in (connection, again):
        writer.close()


async def test_cut_ends_old_and_new(proxy: Proxy, echo: Echo) -> None:
    """A cut ends every connection and each new one, until it is healed."""
    connection = await connect(proxy)
    assert await ask(connection, b"one\n") == b"one\n"
    proxy.cut()
    assert await ask(connection, b"two\n") == b""
    refused = await connect(proxy)
    assert await ask(refused, b"three\n") == b""
    assert echo.asked == [b"one\n"]
    proxy.heal()
    again = await connect(proxy)
    assert await ask(again, b"four\n") == b"four\n"
    for _, writer in (connection, refused, again):
        writer.close()
