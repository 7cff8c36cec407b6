"""The real server, as operators start it, and death for its workers."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from tests.support.server_process import ServerProcess

END_TIMEOUT_S: Final = 60.0


class Setup(NamedTuple):
    """How the server is started. It takes the ports from ``port - 1`` (metrics) to ``port + workers``."""

    host: str
    port: int
    workers: int
    transport: str
    data_dir: Path
    flags: tuple[str, ...] = ()
    """What else the server is told."""

    @property
    def endpoints(self) -> list[str]:
        """Each worker's own ``host:port``."""
        return [f"{self.host}:{self.port + 1 + worker}" for worker in range(self.workers)]

    def start(self) -> ServerProcess:
        """Starts the server; it is ready when ``wait_ready`` says so."""
        flags = {
            "host": self.host,
            "port": self.port,
            "metrics-port": self.port - 1,
            "workers": self.workers,
            "transport": self.transport,
            "data-dir": self.data_dir,
            "shards": 4,  # more than the default: whatever goes wrong between shards is to be found, too
            # a machine that is busy is slow, and that is not what this is about
            "boot-timeout-s": 90,
            "stall-timeout-s": 30,
        }
        told = (*(f"--{name}={value}" for name, value in flags.items()), *self.flags)
        return ServerProcess([sys.executable, "-m", "server", *told], {})

    def wait_ready(self, server: ServerProcess) -> None:
        """Waits until every worker is ready."""
        for worker in range(self.workers):
            server.wait_ready(f"worker-{worker}")


class Deaths:
    """Kills workers with SIGKILL, one at a random moment every ``every_s`` seconds (least and most)."""

    def __init__(self, server: ServerProcess, every_s: tuple[float, float], seed: int) -> None:
        self.count = 0
        self._server = server
        self._every_s = every_s
        self._chance = random.Random(seed ^ 0xDEAD)

    async def run(self) -> None:
        """Kills until cancelled."""
        while True:
            await asyncio.sleep(self._chance.uniform(*self._every_s))  # sleep: the pace of death, not a wait
            self.count += await asyncio.to_thread(self._kill_one)

    def _kill_one(self) -> bool:
        """Kills one of the workers that have become ready (one that never did would count as a failure to start)."""
        ready = {line["pid"] for line in self._server.logged("a child is ready") if line["child"] != "exporter"}
        victims = [child for child in self._server.children() if child.pid in ready]
        if not victims:
            return False
        try:
            self._chance.choice(victims).send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:  # it was dead, and has been reaped since
            return False
        return True


def kill_all(server: ServerProcess) -> None:
    """Kills the supervisor with SIGKILL, which its children do not outlive, and waits until all are gone."""
    family = [psutil.Process(server.pid), *server.children()]
    server.signal(signal.SIGKILL)
    left = psutil.wait_procs(family, END_TIMEOUT_S)[1]
    assert not left, f"outlived their supervisor: {left}"
