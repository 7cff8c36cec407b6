"""Connections between simulated workers: slow, cut at any moment, and stopped while an end is frozen."""

import asyncio
import random
from collections.abc import Callable
from typing import Final, cast

_NO_ONE: Final = "nobody listens"


class Wires:
    """All workers' connections, drawn from ``chance``. ``cuts``: the share of messages at which a connection ends."""

    def __init__(self, chance: random.Random, *, delay_s: float, cuts: float) -> None:
        self.chance = chance
        self.delay_s = delay_s
        self.cuts = cuts
        self.listening: dict[int, tuple[Callable[[], asyncio.Protocol], asyncio.Event]] = {}
        self.pumps: set[asyncio.Task[None]] = set()

    def face(self, running: asyncio.Event) -> "Face":
        """The network as one worker has it, which reads and sends only while ``running``."""
        return Face(self, running)

    def close(self) -> None:
        """Ends what is still on its way."""
        for pump in self.pumps:
            pump.cancel()


class Face:
    """See ``shards.handing.network.Network``."""

    def __init__(self, wires: Wires, running: asyncio.Event) -> None:
        self._wires = wires
        self._running = running

    async def connect(self, number: int, make: Callable[[], asyncio.Protocol]) -> None:
        """Connects, if anybody listens."""
        await asyncio.sleep(self._wires.chance.uniform(0, self._wires.delay_s))  # sleep: simulated, the way there
        if number not in self._wires.listening:
            raise ConnectionRefusedError(_NO_ONE)
        take, there = self._wires.listening[number]
        near, far = End(self._wires, make(), self._running), End(self._wires, take(), there)
        near.join(far)
        far.join(near)
        for end in (far, near):
            end.protocol.connection_made(cast("asyncio.Transport", end))

    async def listen(self, number: int, make: Callable[[], asyncio.Protocol]) -> None:
        """Takes connections."""
        self._wires.listening[number] = make, self._running

    async def close(self) -> None:
        """Takes no more."""
        listening = self._wires.listening
        for number in [number for number, (_, running) in listening.items() if running is self._running]:
            del listening[number]


class End:
    """One end of a connection."""

    def __init__(self, wires: Wires, protocol: asyncio.Protocol, running: asyncio.Event) -> None:
        self.protocol = protocol
        self.running = running
        self._wires = wires
        self._sent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._is_open = True

    def join(self, other: "End") -> None:
        """Sends to the other end from now on."""
        self._other = other
        pump = asyncio.get_running_loop().create_task(self._pump())
        self._wires.pumps.add(pump)
        pump.add_done_callback(self._wires.pumps.discard)

    def write(self, data: bytes) -> None:
        """Sends bytes."""
        self._sent.put_nowait(data)

    def close(self) -> None:
        """Sends what is still to be sent, and ends the connection."""
        self._sent.put_nowait(None)

    def abort(self) -> None:
        """Ends the connection at once."""
        for end in (self, self._other):
            if end._is_open:
                end._is_open = False
                asyncio.get_running_loop().call_soon(end.protocol.connection_lost, None)

    async def _pump(self) -> None:
        chance = self._wires.chance
        while (data := await self._sent.get()) is not None:
            await self.running.wait()
            await asyncio.sleep(chance.uniform(0, self._wires.delay_s))  # sleep: simulated, the way there
            await self._other.running.wait()
            if chance.random() < self._wires.cuts:
                break
            at = chance.randint(0, len(data))
            for part in (data[:at], data[at:]):
                if part and self._other._is_open:
                    self._other.protocol.data_received(part)
        self.abort()
