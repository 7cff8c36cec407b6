"""Who disturbs: one fault at a time, each inflicted, kept up for a while, and healed.

A fault is a plug-in. Those for workers need a server process, those for nodes a ``deploy.cluster`` node, those for
the way between server and store a ``tests.support.proxy``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol

import psutil

from deploy.cluster import Node
from tests.support.proxy import Proxy
from tests.support.server_process import ServerProcess

NODE_READY_TIMEOUT_S: Final = 300.0


class Fault(Protocol):
    """Something that goes wrong. ``inflict`` and ``heal`` take turns, beginning with ``inflict``."""

    name: str

    async def inflict(self, chance: random.Random) -> bool:
        """Makes it go wrong; returns whether there was anything that could."""

    async def heal(self) -> None:
        """Sets it right, and returns when it is. Harmless when nothing is wrong."""


class KillWorker:
    """SIGKILL for a worker; its supervisor heals that."""

    name = "kill a worker"

    def __init__(self, server: ServerProcess) -> None:
        self._server = server

    async def inflict(self, chance: random.Random) -> bool:
        """Kills one of the workers that have become ready: one that never did counts as a failure to start."""
        victims = await asyncio.to_thread(_ready_workers, self._server)
        if not victims:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            chance.choice(victims).send_signal(signal.SIGKILL)
        return True

    async def heal(self) -> None:
        """Is the supervisor's to do."""


class PauseWorker:
    """SIGSTOP for a worker, and SIGCONT: what it was about to do it does later, unless the supervisor ended it."""

    name = "pause a worker"

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._paused: psutil.Process | None = None

    async def inflict(self, chance: random.Random) -> bool:
        """Stops a worker where it stands."""
        victims = await asyncio.to_thread(_ready_workers, self._server)
        if not victims:
            return False
        self._paused = chance.choice(victims)
        with contextlib.suppress(psutil.NoSuchProcess):
            self._paused.send_signal(signal.SIGSTOP)
        return True

    async def heal(self) -> None:
        """Lets it go on."""
        if self._paused is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._paused.send_signal(signal.SIGCONT)
            self._paused = None


class KillNode:
    """SIGKILL for one of these nodes, or for all at once, and a start on the data that they had."""

    def __init__(self, what: str, nodes: Sequence[Node], *, at_once: bool = False) -> None:
        self.name = f"kill {what}"
        self._nodes = nodes
        self._at_once = at_once
        self._killed: list[Node] = []

    async def inflict(self, chance: random.Random) -> bool:
        """Kills."""
        self._killed = list(self._nodes) if self._at_once else [chance.choice(self._nodes)]
        await asyncio.gather(*(asyncio.to_thread(node.kill) for node in self._killed))
        return True

    async def heal(self) -> None:
        """Starts what was killed, and waits until it serves."""
        for node in self._killed:
            await asyncio.to_thread(node.start)
        for node in self._killed:
            await asyncio.to_thread(node.wait_ready, NODE_READY_TIMEOUT_S)
        self._killed = []


class PauseNode:
    """SIGSTOP for one of these nodes, and SIGCONT: its connections stay open meanwhile and nothing answers."""

    def __init__(self, what: str, nodes: Sequence[Node]) -> None:
        self.name = f"pause {what}"
        self._nodes = nodes
        self._paused: Node | None = None

    async def inflict(self, chance: random.Random) -> bool:
        """Stops a node where it stands."""
        self._paused = chance.choice(self._nodes)
        await asyncio.to_thread(self._paused.pause)
        return True

    async def heal(self) -> None:
        """Lets it go on."""
        if self._paused is not None:
            await asyncio.to_thread(self._paused.resume)
            self._paused = None


class DisturbProxy:
    """What a network does: ``delay`` both ways, ``drop`` the replies (what was asked is done all the same), ``cut``."""

    def __init__(self, proxies: Sequence[Proxy], how: str) -> None:
        assert how in ("delay", "drop", "cut"), how
        self.name = {"delay": "delay packets", "drop": "drop replies", "cut": "cut connections"}[how]
        self._proxies = proxies
        self._how = how
        self._disturbed: Proxy | None = None

    async def inflict(self, chance: random.Random) -> bool:
        """Disturbs one of the proxies."""
        self._disturbed = proxy = chance.choice(self._proxies)
        if self._how == "delay":
            proxy.delay_s = chance.uniform(0.05, 1.0)
        elif self._how == "drop":
            proxy.drop_replies()
        else:
            proxy.cut()
        return True

    async def heal(self) -> None:
        """Lets everything through again."""
        if self._disturbed is not None:
            self._disturbed.heal()
            self._disturbed = None


class Nemesis:
    """Inflicts one fault after another, each for ``lasting_s`` and with ``rest_s`` after it (least and most)."""

    def __init__(
        self,
        faults: Sequence[Fault],
        seed: int,
        *,
        lasting_s: tuple[float, float] = (0.2, 4.0),
        rest_s: tuple[float, float] = (0.1, 1.5),
    ) -> None:
        self.inflicted: Counter[str] = Counter()
        """How often which fault was."""
        self._faults = faults
        self._chance = random.Random(seed ^ 0x2E3E515)
        self._lasting_s = lasting_s
        self._rest_s = rest_s

    async def run(self) -> None:
        """Goes on until cancelled, every fault once before any comes again; leaves nothing unhealed."""
        while self._faults:
            for fault in self._chance.sample(self._faults, len(self._faults)):
                try:
                    self.inflicted[fault.name] += await fault.inflict(self._chance)
                    await self._pass_time(self._lasting_s)
                finally:
                    await asyncio.shield(fault.heal())
                await self._pass_time(self._rest_s)

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Runs meanwhile; afterwards everything is healed."""
        task = asyncio.create_task(self.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            for fault in self._faults:
                await fault.heal()

    async def _pass_time(self, least_and_most_s: tuple[float, float]) -> None:
        await asyncio.sleep(self._chance.uniform(*least_and_most_s))  # sleep: the pace of faults, not a wait


def _ready_workers(server: ServerProcess) -> list[psutil.Process]:
    ready = {line["pid"] for line in server.logged("a child is ready") if line["child"] != "exporter"}
    return [child for child in server.children() if child.pid in ready]
