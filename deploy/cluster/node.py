"""A node: a process with a folder of its own, whatever program it runs."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from deploy.cluster.errors import ClusterError, NodeError
from deploy.cluster.process import ProcessId, spawn

PROBE_INTERVAL_S: Final = 0.05
"""Between two tries to reach a node that starts; its end is noticed at once."""

PROBE_TIMEOUT_S: Final = 2.0
"""For one try: a node under load may take its time, a hung one must not take ours."""

KILL_TIMEOUT_S: Final = 30.0
"""For a killed process to be gone: the kernel frees its memory first."""

LOG_TAIL_BYTES: Final = 4_096


class Node(ABC):
    """One node. What it is doing is read from the system each time, so several processes may hold the same node.

    ``dies_with_parent`` as in ``process.spawn``.
    """

    def __init__(self, name: str, directory: Path, *, dies_with_parent: bool) -> None:
        self.name: Final = name
        self.directory: Final = directory
        self._dies_with_parent: Final = dies_with_parent

    def __repr__(self) -> str:
        process = self.process
        state = "down" if process is None else f"pid {process.pid}{' paused' if process.paused() else ''}"
        return f"<{type(self).__name__} {self.name} {self.endpoint}, {state}>"

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """Where clients reach it, ``address:port``."""

    @property
    @abstractmethod
    def listens(self) -> tuple[tuple[str, int], ...]:
        """Every address and port that it takes."""

    @abstractmethod
    def probe(self) -> str | None:
        """Asks once, within ``PROBE_TIMEOUT_S``, whether it serves; returns what is missing, None for ready."""

    timer_slack_us: int | None = None
    """See ``process.spawn``."""

    @abstractmethod
    def _prepare(self) -> Sequence[str]:
        """Writes the configuration and returns the command line."""

    @property
    def log(self) -> Path:
        """What the process prints."""
        return self.directory / "console.log"

    @property
    def process(self) -> ProcessId | None:
        """The running process, None when there is none."""
        recorded = self._recorded()
        return recorded if recorded is not None and recorded.alive() else None

    @property
    def alive(self) -> bool:
        """Whether its process is there, ready or not, paused or not."""
        return self.process is not None

    def start(self) -> None:
        """Starts the process and returns at once; does nothing when it runs.

        Raises ``NodeError`` when somebody else has one of its ports.
        """
        if self.alive:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        argv = self._prepare()
        for address, port in self.listens:
            if _taken(address, port):
                raise NodeError(f"{self.name}: {address}:{port} is taken by a process that is not of this cluster")
        process = spawn(argv, log=self.log, dies_with_parent=self._dies_with_parent, timer_slack_us=self.timer_slack_us)
        # Replaced whole: whoever reads it meanwhile gets the old one or the new one.
        fresh = self._record.with_suffix(".new")
        fresh.write_text(json.dumps(dataclasses.asdict(process)))
        fresh.replace(self._record)

    def wait_ready(self, timeout_s: float, *, probe: Callable[[], str | None] | None = None) -> None:
        """Waits until it serves, or until another ``probe`` finds nothing missing.

        Raises ``NodeError`` when the process ends or the time is over. A paused node is not ready.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            process = self.process
            if process is None:
                raise NodeError(f"{self.name} has ended: {self._last_words()} (all of it: {self.log})")
            missing = (probe or self.probe)()
            if missing is None:
                return
            if time.monotonic() >= deadline:
                raise NodeError(f"{self.name} is not ready after {timeout_s:.0f} s: {missing} (its log: {self.log})")
            process.wait(PROBE_INTERVAL_S)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal; after SIGKILL returns when the process is gone. Does nothing when it is not running."""
        process = self.process
        if process is not None and process.send(number) and number is signal.SIGKILL:
            self._await_end(process)

    def pause(self) -> None:
        """Stops it where it stands (SIGSTOP): connections stay open and nothing answers."""
        self.kill(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused node go on (SIGCONT)."""
        self.kill(signal.SIGCONT)

    def ask_to_end(self) -> None:
        """Sends SIGTERM and returns at once; a paused node goes on, to hear it."""
        self.kill(signal.SIGTERM)
        self.kill(signal.SIGCONT)

    def stop(self, grace_s: float) -> bool:
        """Ends it: SIGTERM, and SIGKILL when it runs after ``grace_s``. Returns whether it was running."""
        process = self.process
        if process is None:
            return False
        self.ask_to_end()
        if not process.wait(grace_s):
            self.kill()
        return True

    def restart(self, timeout_s: float) -> None:
        """Kills it if it runs, starts it on the same data and waits until it serves."""
        self.kill()
        self.start()
        self.wait_ready(timeout_s)

    @property
    def _record(self) -> Path:
        return self.directory / "process.json"

    def _recorded(self) -> ProcessId | None:
        try:
            return ProcessId(**json.loads(self._record.read_text()))
        except FileNotFoundError:
            return None
        except (TypeError, ValueError) as error:
            raise ClusterError(f"{self._record} is damaged ({error}); end {self.name} by hand and remove it") from error

    def _await_end(self, process: ProcessId) -> None:
        if not process.wait(KILL_TIMEOUT_S):
            raise NodeError(f"{self.name}: process {process.pid} is still there {KILL_TIMEOUT_S:.0f} s after SIGKILL")

    def _last_words(self) -> str:
        """The last line of the log that says what went wrong."""
        try:
            with self.log.open("rb") as file:
                file.seek(-min(LOG_TAIL_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
                lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
        except FileNotFoundError:
            return "it printed nothing"
        # Frames of a stack trace follow the line that tells; they are no news.
        telling = [line for line in lines if line and not line.startswith(("at ", "..."))]
        return telling[-1] if telling else "it printed nothing"


def _taken(address: str, port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do it: connections that are closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return True
        return False
