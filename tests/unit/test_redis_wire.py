"""One connection to Redis, against a node that the test plays."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import pytest
from hiredis import Reader, ReplyError
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.caches.redis_cluster.wire import Lost, Wire, connect
from tests.support.addresses import loopback

GET = (b"GET", b"key")


class Played:
    """A node's end of one connection: what it was sent, and how to answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.asked: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self._reader = reader

    def say(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self.writer.write(data)

    async def run(self) -> None:
        """Answers AUTH, but for the password "slow", and leaves the rest to the test, until the other end closes."""
        parser = Reader()
        with suppress(ConnectionError):
            while data := await self._reader.read(65_536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    if command[-1] == b"slow":
                        continue
                    if command[0] == b"AUTH":
                        self.say(b"+OK\r\n" if command[-1] == b"secret" else b"-WRONGPASS no\r\n")
                    else:
                        self.asked.put_nowait(command)
            self.writer.close()
            await self.writer.wait_closed()


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[tuple[str, int], "asyncio.Queue[Played]"]]:
    """Where a node listens, and the ends of those who have connected; all of them are gone when it ends."""
    ends: asyncio.Queue[Played] = asyncio.Queue()
    running: list[asyncio.Task[None]] = []

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end = Played(reader, writer)
        running.append(asyncio.get_running_loop().create_task(end.run()))
        ends.put_nowait(end)

    async with await asyncio.start_server(serve, loopback(28), 0) as server:
        try:
            yield server.sockets[0].getsockname()[:2], ends
        finally:
            async with asyncio.timeout(20):
                await asyncio.gather(*running)


@asynccontextmanager
async def played(*, password: str | None = None, username: str | None = None) -> AsyncIterator[tuple[Wire, Played]]:
    """A wire, and the node's end of it."""
    async with listening() as (address, ends):
        wire = await connect(address, username=username, password=password, timeout_s=20)
        try:
            yield wire, await ends.get()
        finally:
            wire.close()
            await wire.wait_closed()


@given(
    st.lists(st.lists(st.binary(max_size=40) | st.none() | st.integers(0, 9), min_size=1, max_size=5), max_size=8),
    st.lists(st.integers(0, 400), max_size=12),
)
@settings(deadline=None)
async def test_replies_go_to_those_who_asked(groups: list[list[bytes | int | None]], cuts: list[int]) -> None:
    """However the bytes are cut on their way, each group gets its own replies, in order, when the last one is there."""
    wire = Wire()
    wire.connection_made(Sink())
    answers = [wire.send([GET] * len(group)) for group in groups]
    stream = b"".join(_packed(reply) for group in groups for reply in group)
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    for start, end in pairwise(edges):
        wire.data_received(stream[start:end])
    assert [answer.result() for answer in answers] == groups


class Sink(asyncio.Transport):
    """Takes what is written to nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.is_closed = False

    def write(self, _data: object) -> None:
        """Forgets it."""

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.is_closed

    def abort(self) -> None:
        """Notes it."""
        self.is_closed = True


def _packed(reply: bytes | int | None) -> bytes:
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"$-1\r\n" if reply is None else b":%d\r\n" % reply


async def test_a_refusal_is_a_reply() -> None:
    """An error of Redis is the reply to its own command and disturbs none of the others."""
    async with played() as (wire, node):
        answer = wire.send([GET, GET])
        node.say(b"-MOVED 1 elsewhere:1\r\n$1\r\nx\r\n")
        first, second = await answer
        assert isinstance(first, ReplyError)
        assert str(first) == "MOVED 1 elsewhere:1"
        assert second == b"x"


async def test_who_has_left_does_not_shift_the_replies() -> None:
    """The replies to a group that nobody waits for any more are not taken for those of the next one."""
    async with played() as (wire, node):
        left, stays = wire.send([GET]), wire.send([GET])
        left.cancel()
        node.say(b"$3\r\nold\r\n$3\r\nnew\r\n")
        assert await stays == [b"new"]


@pytest.mark.parametrize("ends", ["node", "own", "nonsense", "reply to nothing"])
async def test_the_end_of_a_connection_fails_what_is_under_way(ends: str) -> None:
    """When the node closes, speaks another protocol or talks unasked, or we do, all who wait or ask later are told."""
    async with played() as (wire, node):
        answers = [wire.send([GET, GET]), wire.send([GET])]
        if ends == "node":
            node.say(b"$3\r\nhal")
            node.writer.close()
        elif ends == "own":
            wire.close()
        elif ends == "nonsense":
            node.say(b"HTTP/1.1 400 Bad Request\r\n")
        else:
            node.say(b"+1\r\n+2\r\n+3\r\n+4\r\n")
            assert await answers.pop() == [b"3"]
            assert await answers.pop() == [b"1", b"2"]
        for answer in answers:
            with pytest.raises(Lost):
                await answer
        await wire.wait_closed()
        assert wire.closed
        with pytest.raises(Lost):
            wire.send([GET])


async def test_it_authenticates_first() -> None:
    """With a password, also of a user, the node hears that before anything else, and a wrong one is no connection."""
    async with played(password="secret") as (wire, _), played(password="secret", username="me") as (other, _):
        assert not wire.closed
        assert not other.closed
    with pytest.raises(Lost, match="WRONGPASS"):
        async with played(password="wrong"):
            raise AssertionError("unreachable")


async def test_nobody_there_is_told_in_time() -> None:
    """An address where nobody listens, or nobody answers in time, is no connection."""
    async with listening() as (address, ends):
        with pytest.raises(Lost):
            await connect(address, username=None, password="slow", timeout_s=0.1)
        await ends.get()
    with pytest.raises(Lost):
        await connect(address, username=None, password=None, timeout_s=20)


async def test_a_name_that_can_be_none_is_no_connection() -> None:
    """A host with an empty label, for which nobody can be asked, is as lost as one that nobody knows."""
    with pytest.raises(Lost, match="label empty or too long"):
        await connect(("redis..1", 6379), username=None, password=None, timeout_s=20)
