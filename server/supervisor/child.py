"""One child process: its pipes, what it has said, and its end."""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace

from server.processes import READY, WAITING, Control, Launch, stalled_in
from server.supervisor.log import LOG, fields


class Phase(enum.Enum):
    """Where a child is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    """Asked to end."""
    ABORTING = "aborting"
    """Sent SIGABRT, upon which it writes the stacks of its threads and dies."""
    KILLED = "killed"


class Child:
    """A running child. Times are absolute ``time.monotonic`` seconds."""

    def __init__(self, name: str, command: Sequence[str], launch: Launch) -> None:
        """Starts ``command`` with two pipes added to ``launch``. Raises ``OSError``."""
        status_fd, status_there = os.pipe()
        control_there, control_fd = os.pipe()
        try:
            # the child's ends keep their numbers; subprocess makes them, and nothing else, survive the exec
            launch = replace(launch, status_fd=status_there, control_fd=control_there, parent_pid=os.getpid())
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                env=launch.environ(os.environ),
                pass_fds=[fd for fd in (status_there, control_there, launch.lock_fd) if fd >= 0],
            )
        except OSError:
            os.close(status_fd)
            os.close(control_fd)
            raise
        finally:
            os.close(status_there)
            os.close(control_there)
        os.set_blocking(status_fd, False)
        os.set_blocking(control_fd, False)
        self.name = name
        self.metrics_id = launch.metrics_id
        self.status_fd = status_fd
        self.phase = Phase.STARTING
        self.was_ready = False
        self.stalled: float | None = None
        """What its beats have told since this was last taken; see ``processes.beat``."""
        self.phase_since_s = self.last_beat_s = time.monotonic()
        self._control_fd = control_fd
        self._unsent = b""
        self._latest: bytes | None = None

    def __repr__(self) -> str:
        return f"Child({self.name}, pid={self.pid}, {self.phase.value})"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """How it ended: an exit code, or minus the signal that killed it; None while it runs. Never blocks."""
        return self._process.poll()

    def enter(self, phase: Phase, now_s: float) -> None:
        """Notes a new phase."""
        self.phase = phase
        self.phase_since_s = now_s

    def read_status(self, now_s: float) -> bool:
        """Takes what the child has written; returns whether it has just become ready. Raises EOFError at the end."""
        self.stalled = None
        try:
            said = os.read(self.status_fd, 4096)
        except BlockingIOError:
            return False
        if not said:
            raise EOFError
        self.last_beat_s = now_s
        self.stalled = stalled_in(said)
        if WAITING in said and self.phase is Phase.STARTING:
            self.phase_since_s = now_s
        if READY in said and not self.was_ready:
            self.was_ready = True
            if self.phase is Phase.STARTING:
                self.enter(Phase.SERVING, now_s)
                return True
        return False

    def tell(self, control: Control) -> None:
        """Has the child told; when its pipe is full the latest message waits, and those between are dropped."""
        self._latest = control.to_line()
        self.flush()

    def flush(self) -> None:
        """Writes what waits for room in the control pipe. Never blocks."""
        # a pipe may take a part of a line: that line has to be finished before a later one may follow
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self._unsent or self._latest:
                if not self._unsent:
                    self._unsent, self._latest = self._latest or b"", None
                self._unsent = self._unsent[os.write(self._control_fd, self._unsent) :]

    def terminate(self, now_s: float) -> None:
        """Asks it to finish its calls and end."""
        self.enter(Phase.DRAINING, now_s)
        self._process.send_signal(signal.SIGTERM)

    def abort(self, now_s: float, reason: str) -> None:
        """Has it write its stacks and die."""
        LOG.error("aborting a child: %s", reason, extra=fields(child=self.name, pid=self.pid))
        self.enter(Phase.ABORTING, now_s)
        self._process.send_signal(signal.SIGABRT)

    def kill(self, now_s: float) -> None:
        """Ends it at once."""
        self.enter(Phase.KILLED, now_s)
        self._process.kill()

    def close(self) -> None:
        """Lets go of the pipes of a child that has ended."""
        os.close(self.status_fd)
        os.close(self._control_fd)
