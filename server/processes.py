"""What the processes of one server say to each other: how one is launched, what the pipes carry, how it ends.

Each child has two pipes. On the *status* pipe it writes single bytes: ``READY`` once, when it serves, and a beat from
its event loop every ``BEAT_INTERVAL_S`` from the moment it runs: ``BEAT``, or of a worker what ``beat`` returns. On the
*control* pipe it reads lines, each a complete ``Control``; the end of that pipe means that the supervisor is gone.
Standard library only.
"""

from __future__ import annotations

import ctypes
import dataclasses
import enum
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple, Self

from server.config import Config

LAUNCH_VARIABLE: Final = "CREST_LAUNCH"
"""Environment variable that carries a ``Launch`` to the supervisor and from it to its children."""

BEAT_INTERVAL_S: Final = 0.25
"""An eighth of the least stall that a caller would notice; costs four wake-ups a second and child."""

READY: Final = b"R"
BEAT: Final = b"."
_BEAT_STALLED: Final = 0x80
"""A beat of a worker is this and the percentage that ``beat`` is given."""
WAITING: Final = b"W"
"""A worker cannot be ready yet, through no fault of its own: its time to become ready starts anew."""

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def beat(stalled: float) -> bytes:
    """Returns the beat of an event loop that was kept from running for this share of the time since the last one."""
    return bytes((_BEAT_STALLED + round(100 * min(1.0, max(0.0, stalled))),))


def stalled_in(said: bytes) -> float | None:
    """Returns the share that the beats among ``said`` tell, their mean; None where none of them tells any."""
    shares = [byte - _BEAT_STALLED for byte in said if byte >= _BEAT_STALLED]
    return sum(shares) / len(shares) / 100 if shares else None


class ExitCode(enum.IntEnum):
    """How a process of the server ends. The numbers are a promise to whoever starts it."""

    text: str
    """What it means, as ``--help`` and the manual say it."""

    def __new__(cls, value: int, text: str) -> Self:
        """Makes a member of a number and its text."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.text = text
        return member

    STOPPED = 0, "Stopped as asked; every call was finished."
    DEFECT = 1, "An error that nobody foresaw; the log has its traceback."
    USAGE = 2, "A flag, a variable, the settings file or the topology file says what cannot be."
    PORT_TAKEN = 3, "A port is in use, or may not be taken."
    STORE_REFUSED = 4, "The store cannot be used: in use, damaged, read-only, full, or of another version."
    BOOT_FAILED = 5, "A worker failed to start as often as boot_failures_max; its own lines in the log say why."
    CUT = 6, "Stopped as asked, but calls were cut: at a second signal, or when they outlasted drain_grace_s."


class State(enum.Enum):
    """What a worker is doing, as the supervisor sees it."""

    STARTING = "STARTING"
    SERVING = "SERVING"
    DRAINING = "DRAINING"


class WorkerStatus(NamedTuple):
    """One worker as the supervisor last saw it."""

    id: int
    """From 0; a replacement has the same."""
    address: str
    """``host:port`` of its own endpoint, for callers."""
    state: State
    restarts: int
    """How often it was started again because it had died or stalled."""
    lags: bool = False
    """Whether its event loop is kept from running much more than those of the others."""


class Control(NamedTuple):
    """What the supervisor tells its children; each message is complete and replaces the one before."""

    workers: tuple[WorkerStatus, ...]
    open_shared: bool
    """Whether the workers take calls on the shared port: from when all of them have once been ready."""

    def to_line(self) -> bytes:
        """Returns the message as it is written to a control pipe."""
        workers = [[w.id, w.address, w.state.value, w.restarts, w.lags] for w in self.workers]
        return json.dumps({"workers": workers, "open_shared": self.open_shared}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Control:
        """Returns the message that ``to_line`` wrote."""
        raw = json.loads(line)
        workers = tuple(
            WorkerStatus(id_, address, State(state), *more) for id_, address, state, *more in raw["workers"]
        )
        return cls(workers, raw["open_shared"])


class ControlReader:
    """Cuts what comes from a control pipe into messages. Told bytes, answers what they complete."""

    def __init__(self) -> None:
        self._unread = b""

    def feed(self, data: bytes) -> Control | None:
        """Returns the last message that ``data`` completes, since it replaces those before."""
        *lines, self._unread = (self._unread + data).split(b"\n")
        return Control.from_line(lines[-1]) if lines else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a process is given when it starts. Descriptors are numbers of inherited ones; -1 for none."""

    config: Config
    lock_fd: int = -1
    """Holds the lock of the data directory for as long as any process of the server has it open."""
    parent_pid: int = 0
    number: int = -1
    """Of a worker, from 0."""
    metrics_dir: Path = Path()
    """Where the workers leave their metrics for the exporter."""
    metrics_id: str = ""
    """Names this worker's files there: one of few names for each number, so that the files stay few and counters go
    on after a restart, and never the name of another living process."""
    status_fd: int = -1
    control_fd: int = -1

    def environ(self, base: Mapping[str, str]) -> dict[str, str]:
        """Returns an environment that carries this."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**base, LAUNCH_VARIABLE: json.dumps({**fields, "config": self.config.to_json()}, default=str)}

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Launch:
        """Returns what ``environ`` carries; without it ends the process with a word to whoever started it by hand."""
        text = environ.get(LAUNCH_VARIABLE)
        if text is None:
            print("this process is started by the server itself: run `python -m server`", file=sys.stderr)  # noqa: T201  # no log yet
            raise SystemExit(ExitCode.USAGE)
        raw = json.loads(text)
        raw["config"] = Config.from_json(raw["config"])
        raw["metrics_dir"] = Path(raw["metrics_dir"])
        return cls(**raw)


def die_with_parent(parent_pid: int) -> None:
    """Has the kernel kill this process when its parent dies, however that dies.

    On Linux; elsewhere the end of the control pipe has to do. Ends this process when the parent is dead already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise SystemExit(ExitCode.CUT)


def leave_terminal_to_parent() -> None:
    """Has this process ignore Ctrl-C and a terminal's end: they reach all processes there, and the supervisor acts."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
