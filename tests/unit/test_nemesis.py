"""The nemesis inflicts each of its faults and leaves none behind."""

import asyncio
import random
from collections.abc import Sequence
from typing import cast

import pytest

from deploy.cluster import Node
from tests.support.proxy import Proxy
from tests.support.waiting import until
from tests.torture.history.nemesis import DisturbProxy, Fault, KillNode, Nemesis, PauseNode


class Notebook:
    """A fault that only notes; no other may be under way with it."""

    def __init__(self, name: str, under_way: set[str]) -> None:
        self.name = name
        self._under_way = under_way

    async def inflict(self, _: random.Random) -> bool:
        """Begins."""
        assert not self._under_way
        self._under_way.add(self.name)
        return True

    async def heal(self) -> None:
        """Ends."""
        await asyncio.sleep(0)
        self._under_way.discard(self.name)


async def test_faults_take_turns_and_are_healed() -> None:
    """Every fault is inflicted as often as the others, never two at once, and none is left in the end."""
    under_way: set[str] = set()
    faults = [Notebook(name, under_way) for name in ("one", "two", "three")]
    nemesis = Nemesis(faults, seed=1, lasting_s=(0, 0.002), rest_s=(0, 0.001))
    async with nemesis.at_work():

        async def inflicted() -> int:
            return nemesis.inflicted.total()

        await until(inflicted, lambda count: count >= 9)
    assert not under_way
    assert set(nemesis.inflicted) == {"one", "two", "three"}
    assert max(nemesis.inflicted.values()) - min(nemesis.inflicted.values()) <= 1


class RecordedNode:
    """A node that notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def kill(self) -> None:
        """As ``Node``."""
        self.done.append("kill")

    def start(self) -> None:
        """As ``Node``."""
        self.done.append("start")

    def wait_ready(self, _: float) -> None:
        """As ``Node``."""
        self.done.append("wait")

    def pause(self) -> None:
        """As ``Node``."""
        self.done.append("pause")

    def resume(self) -> None:
        """As ``Node``."""
        self.done.append("resume")


async def play(fault: Fault) -> None:
    """Inflicts and heals, and heals again, which must do nothing."""
    assert await fault.inflict(random.Random(1))
    await fault.heal()
    await fault.heal()


def nodes_of(recorded: Sequence[RecordedNode]) -> Sequence[Node]:
    """The same, as what the faults take."""
    return cast("Sequence[Node]", recorded)


async def test_nodes_are_killed_and_revived() -> None:
    """One node, or all at once, is killed, started on its data, and waited for."""
    recorded = [RecordedNode(), RecordedNode()]
    await play(KillNode("a node", nodes_of(recorded)))
    assert sorted(node.done for node in recorded) == [[], ["kill", "start", "wait"]]
    recorded = [RecordedNode(), RecordedNode()]
    await play(KillNode("all nodes", nodes_of(recorded), at_once=True))
    assert [node.done for node in recorded] == [["kill", "start", "wait"]] * 2


async def test_nodes_are_paused_and_resumed() -> None:
    """One node is paused, and resumed once."""
    recorded = [RecordedNode(), RecordedNode()]
    await play(PauseNode("a node", nodes_of(recorded)))
    assert sorted(node.done for node in recorded) == [[], ["pause", "resume"]]


@pytest.mark.parametrize(("how", "told"), [("delay", "delay 0."), ("drop", "dropping"), ("cut", "cut")])
async def test_proxies_are_disturbed_and_healed(how: str, told: str) -> None:
    """A proxy is disturbed in the way that is named, and lets everything through afterwards."""
    proxy = Proxy("127.0.0.29", 0, ("127.0.0.29", 1))
    fault = DisturbProxy([proxy], how)
    assert await fault.inflict(random.Random(1))
    assert told in repr(proxy)
    await fault.heal()
    assert "delay 0 s" in repr(proxy)
