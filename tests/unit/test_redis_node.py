"""One master of a Redis Cluster, behind a connection that the test answers for."""

import asyncio
import time

from aioredis_cluster.errors import ConnectionClosedError

from shards.caches.redis_cluster.node import BATCH_COMMANDS_MAX, BATCHES_MAX, Connection, Lost, Node


class Wire(Connection):
    """Answers SCRIPT at once and the rest when the test says so."""

    def __init__(self) -> None:
        self.is_closed = False
        self.sent: list[tuple[bytes, ...]] = []
        self.answers: list[asyncio.Future[object]] = []

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self.is_closed

    def execute(self, command: bytes, *args: bytes) -> asyncio.Future[object]:
        """Notes a command."""
        if self.is_closed:
            raise ConnectionClosedError("closed")
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if command == b"SCRIPT":
            answer.set_result(b"name")
        else:
            self.sent.append((command, *args))
            self.answers.append(answer)
        return answer

    def close(self) -> None:
        """Fails what is under way, as the real one does."""
        self.is_closed = True
        for answer in self.answers:
            if not answer.done():
                answer.set_exception(ConnectionClosedError("closed"))

    async def wait_closed(self) -> None:
        """Is closed at once."""


class Bench:
    """A node, its connections, and how often it was lost."""

    def __init__(self, *, answer_timeout_s: float = 30.0) -> None:
        self.wires: list[Wire] = []
        self.refuses = False
        self.losses = 0
        self.node = Node(("redis", 1), self._connect, script=b"", answer_timeout_s=answer_timeout_s, on_loss=self._lost)

    async def _connect(self, _: tuple[str, int]) -> Wire:
        if self.refuses:
            raise Lost("refused")
        self.wires.append(Wire())
        return self.wires[-1]

    def _lost(self) -> None:
        self.losses += 1


async def turns() -> None:
    """Lets tasks go on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_gathers_goes_together_and_once() -> None:
    """While commands are under way others gather, one GET for all who ask for a key, and go together after them."""
    bench = Bench()
    assert await bench.node.revive()
    first = bench.node.look_up(b"a")
    await turns()
    [wire] = bench.wires
    later = [bench.node.look_up(key) for key in (b"a", b"b", b"a")]
    await turns()
    assert wire.sent == [(b"GET", b"a")]
    wire.answers[0].set_result(b"1")
    await turns()
    assert wire.sent[1:] == [(b"GET", b"a"), (b"GET", b"b")]
    assert first is not None
    assert first[0].replies == [b"1"]
    assert later[0] == later[2] != later[1]
    await bench.node.close()
    assert all(place is not None and place[0].over.is_set() and place[0].replies is None for place in later)


async def test_a_hung_node_frees_all_who_wait() -> None:
    """When a node does not answer in time everybody who waits for it is told, and it is left alone for a while."""
    bench = Bench(answer_timeout_s=0.01)
    await bench.node.revive()
    asked = bench.node.look_up(b"a")
    await turns()
    waits = bench.node.look_up(b"b")
    assert asked is not None
    assert waits is not None
    async with asyncio.timeout(10):
        await asked[0].over.wait()
        await waits[0].over.wait()
    assert asked[0].replies is waits[0].replies is None
    assert bench.node.look_up(b"a") is None
    assert bench.losses == 1
    assert not await bench.node.revive(), "it rests"
    assert len(bench.wires) == 1
    await bench.node.close()


async def test_each_failure_is_a_longer_rest() -> None:
    """A node that fails again and again is asked less and less often, down to once in four seconds."""
    bench = Bench()
    bench.refuses = True
    for rest_s in (0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0):
        bench.node._rest_until = float("-inf")
        before = time.monotonic()
        assert not await bench.node.revive()
        assert before + rest_s <= bench.node._rest_until <= time.monotonic() + rest_s


async def test_what_waits_is_bounded() -> None:
    """Beyond so many commands that wait a look-up fails at once."""
    bench = Bench()
    await bench.node.revive()
    bench.node.look_up(b"under way")
    await turns()
    places = [bench.node.look_up(b"%d" % number) for number in range(BATCHES_MAX * BATCH_COMMANDS_MAX + 1)]
    assert places[-1] is None
    assert None not in places[:-1]
    await bench.node.close()


async def test_a_connection_that_broke_is_noticed_and_made_anew() -> None:
    """A command on a broken connection fails at once, and a node that has rested takes commands again."""
    bench = Bench()
    await bench.node.revive()
    bench.wires[0].close()
    assert bench.node.look_up(b"a") is None
    assert bench.losses == 1
    bench.node._rest_until = float("-inf")
    assert await bench.node.revive()
    asked = bench.node.look_up(b"a")
    await turns()
    bench.wires[1].answers[0].set_result(None)
    assert asked is not None
    await asked[0].over.wait()
    assert asked[0].replies == [None]
    await bench.node.close()
    await bench.node.close()
