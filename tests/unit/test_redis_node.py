"""One master of a Redis Cluster, behind a connection that the test answers for."""

import asyncio
import time
from collections.abc import Sequence

from shards.caches.redis_cluster.node import BATCH_COMMANDS_MAX, BATCHES_MAX, Connection, Node, Place
from shards.caches.redis_cluster.wire import Command, Lost, Reply
from tests.simulation import virtual_time


class Wire(Connection):
    """Answers SCRIPT at once and the rest when the test says so."""

    def __init__(self) -> None:
        self.is_closed = False
        self.sent: list[Sequence[Command]] = []
        self.answers: list[asyncio.Future[Sequence[Reply]]] = []

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self.is_closed

    def send(self, commands: Sequence[Command]) -> asyncio.Future[Sequence[Reply]]:
        """Notes commands."""
        if self.is_closed:
            raise Lost("closed")
        answer: asyncio.Future[Sequence[Reply]] = asyncio.get_running_loop().create_future()
        if commands[0][0] == b"SCRIPT":
            answer.set_result([b"name"])
        else:
            self.sent.append(list(commands))
            self.answers.append(answer)
        return answer

    def close(self) -> None:
        """Fails what is under way, as the real one does."""
        self.is_closed = True
        for answer in self.answers:
            if not answer.done():
                answer.set_exception(Lost("closed"))

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


async def replies(place: Place | None) -> Sequence[Reply] | None:
    """What a batch was answered, when it is over."""
    assert place is not None
    batch, _ = place
    if not batch.is_over:
        async with asyncio.timeout(10):
            await batch.over()
    return batch.replies


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
    assert wire.sent == [[(b"GET", b"a")]]
    wire.answers[0].set_result([b"1"])
    assert await replies(first) == [b"1"]
    await turns()
    assert wire.sent[1:] == [[(b"GET", b"a"), (b"GET", b"b")]]
    assert later[0] == later[2] != later[1]
    waits = [asyncio.create_task(replies(place)) for place in later]
    await turns()
    await bench.node.close()
    assert [await wait for wait in waits] == [None] * 3


async def test_who_leaves_a_batch_leaves_it_alone() -> None:
    """Of those who wait for a batch one may be cancelled; the others are answered."""
    bench = Bench()
    await bench.node.revive()
    place = bench.node.look_up(b"a")
    leaves, stays = asyncio.create_task(replies(place)), asyncio.create_task(replies(place))
    await turns()
    leaves.cancel()
    await turns()
    bench.wires[0].answers[0].set_result([b"1"])
    assert await stays == [b"1"]
    assert leaves.cancelled()
    await bench.node.close()


async def test_a_hung_node_frees_all_who_wait() -> None:
    """When a node does not answer in time everybody who waits for it is told, and it is left alone for a while."""
    bench = Bench(answer_timeout_s=0.01)
    await bench.node.revive()
    asked = bench.node.look_up(b"a")
    await turns()
    waits = bench.node.look_up(b"b")
    assert await replies(asked) is None
    assert await replies(waits) is None
    assert bench.node.look_up(b"a") is None
    assert bench.losses == 1
    assert not await bench.node.revive(), "it rests"
    assert len(bench.wires) == 1
    await bench.node.close()


def test_a_stall_of_our_own_is_not_the_nodes() -> None:
    """When the event loop stood still for longer than a node may take, the node has half of that time still."""

    async def run() -> None:
        bench = Bench(answer_timeout_s=0.2)
        await bench.node.revive()
        asked = bench.node.look_up(b"a")
        await turns()
        virtual_time.stall(0.5)
        await turns()
        bench.wires[0].answers[0].set_result([b"1"])
        assert await replies(asked) == [b"1"]
        assert await replies(bench.node.look_up(b"b")) is None, "and no more than its time otherwise"
        await bench.node.close()

    virtual_time.run(run())


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
    bench.wires[1].answers[0].set_result([None])
    assert await replies(asked) == [None]
    await bench.node.close()
    await bench.node.close()
