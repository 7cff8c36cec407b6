"""Load that is no ghz: a process of ours that runs for as long as it is told and answers with its figures.

The process prints ``ready``, then for each line of its input, which holds the seconds to run for, a line of JSON.
"""

from __future__ import annotations

import json
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil

from bench.installed import ROOT

READY_TIMEOUT_S: Final = 60.0
_ANSWER_TIMEOUT_S: Final = 60.0
"""Beyond the time of the load itself."""

_STOP_TIMEOUT_S: Final = 10.0
_LOG_LINES: Final = 10


class DriverError(Exception):
    """The process ended, or does not answer; the text ends with what it printed last."""


class Driver:
    """One such process. A context manager: entering it waits until it is ready, leaving it ends it."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._process: psutil.Popen | None = None

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = psutil.Popen(
                self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        try:
            self._answer(READY_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def run(self, seconds: float) -> dict[str, Any]:
        """Lets it run for so long and returns its figures. Raises ``DriverError``."""
        process = self._running()
        process.stdin.write(f"{seconds}\n".encode())
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._answer(seconds + _ANSWER_TIMEOUT_S))
        return answer

    def cpu_s(self) -> float:
        """Returns the processor seconds it has spent so far."""
        spent = self._running().cpu_times()
        return float(spent.user + spent.system)

    def stop(self) -> None:
        """Ends it: its input ends, then by force. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.stdin.close()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _running(self) -> psutil.Popen:
        if self._process is None:
            raise DriverError(f"{self.name} was not started")
        return self._process

    def _answer(self, timeout_s: float) -> str:
        """Returns the next line. It is short and printed whole, so one that has begun ends at once."""
        process = self._running()
        give_up = time.monotonic() + timeout_s
        if not select.select([process.stdout], [], [], max(0.0, give_up - time.monotonic()))[0]:
            raise DriverError(self._told(f"{self.name} does not answer"))
        line: str = process.stdout.readline().decode()
        if not line:
            raise DriverError(self._told(f"{self.name} ended"))
        return line.strip()

    def _told(self, what: str) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join([what, f"the last lines of its log ({self._log.name}):", *lines])
