"""A server as its own processes, with its log read as it is written."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import psutil

from tests.support.deadlines import eventually

_LEAVE_S_MAX: Final = 30.0
"""By when every child must have left whose supervisor has ended; on an idle machine they need milliseconds."""

ROOT = Path(__file__).resolve().parents[2]

Line = dict[str, Any]


class ServerProcess:
    """A started server; leaving the context kills what is left of it, and fails when that was not nothing."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], pass_fds: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "CREST_LOG_FORMAT": "json", **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
        )
        self.pid = self._process.pid
        self.lines: list[Line] = []
        """What it has logged so far, all processes together; what is no JSON stands under `text`."""
        self.stdout: list[str] = []
        self._family: set[psutil.Process] = set()
        assert self._process.stderr is not None
        assert self._process.stdout is not None
        self._readers = [
            self._read(self._process.stderr, self._log_line),
            self._read(self._process.stdout, self.stdout.append),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.children()
        ended_by_itself = self._process.poll() is not None
        if not ended_by_itself:
            self.signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        left = _running(self._family)
        if ended_by_itself and left:  # its end is what tells its children to leave, and for that they need a processor
            left = _running(psutil.wait_procs(left, timeout=_LEAVE_S_MAX)[1])
        for child in left:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has left since
                child.kill()
        for reader in self._readers:
            reader.join(10)
        if error is not None:
            print("\n".join(json.dumps(line) for line in self.lines[-60:]), file=sys.stderr)
        elif ended_by_itself:
            assert not left, f"processes left behind: {left}"

    @staticmethod
    def _read(stream: IO[str], take: Callable[[str], None]) -> threading.Thread:
        def run() -> None:
            with stream:
                for line in stream:
                    take(line.rstrip("\n"))

        reader = threading.Thread(target=run, daemon=True)
        reader.start()
        return reader

    def _log_line(self, text: str) -> None:
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        self.lines.append(line if isinstance(line, dict) else {"text": text})

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the supervisor."""
        self._process.send_signal(number)

    def children(self) -> list[psutil.Process]:
        """The children alive now."""
        try:
            found = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._family.update(found)
        return found

    def logged(self, event: str, **fields: object) -> list[Line]:
        """The lines so far with this event and these fields."""
        wanted = {"event": event, **fields}
        return [line for line in list(self.lines) if all(line.get(name) == value for name, value in wanted.items())]

    def logged_about(self, beginning: str) -> list[Line]:
        """The lines so far whose event begins so."""
        return [line for line in list(self.lines) if str(line.get("event", "")).startswith(beginning)]

    def wait_logged(self, event: str, count: int = 1, timeout_s: float = 120.0, **fields: object) -> list[Line]:
        """Returns such lines as soon as there are ``count``; fails when the server ends without them."""

        def probe() -> list[Line] | None:
            found = self.logged(event, **fields)
            if len(found) >= count:
                return found
            if self._process.poll() is not None:
                for reader in self._readers:
                    reader.join(10)
                found = self.logged(event, **fields)
                assert len(found) >= count, f"ended with {self._process.returncode} before {count} x {event!r} {fields}"
                return found
            return None

        return eventually(probe, f"{count} x {event!r} {fields}", timeout_s)

    def wait_ready(self, child: str, count: int = 1) -> int:
        """Returns the pid of a child (``worker-0``, ``exporter``) that became ready, the ``count``-th of that name."""
        pid = self.wait_logged("a child is ready", count, child=child)[count - 1]["pid"]
        self.children()
        assert isinstance(pid, int)
        return pid

    def wait_exit(self, timeout_s: float = 120.0) -> int:
        """Returns the exit code, or minus the signal, when the supervisor has ended and its log is read."""
        self.children()
        code = self._process.wait(timeout_s)
        for reader in self._readers:
            reader.join(10)
        return code


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not, once all its threads have ended."""
    try:
        return _runs(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def _running(family: Iterable[psutil.Process]) -> list[psutil.Process]:
    return [child for child in family if _runs(child)]


def _runs(process: psutil.Process) -> bool:
    try:
        # the first thread may be gone while another one still holds ports and files
        return process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:  # reaped between the two questions
        return False
