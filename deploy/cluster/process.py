"""Processes that outlive who started them, known again without doubt, signalled without mistake.

A pid alone may belong to somebody else by now. What is recorded is the pid, the kernel's start time of that process,
and the boot it happened in; signals go through a pidfd that was opened before those were compared, so that not even a
pid reused in between is hit. Linux only, as are the loopback addresses beyond 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.cluster.errors import MissingError

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
STAT_STATE: Final = 0
STAT_START: Final = 19
"""Positions in /proc/PID/stat after the name: proc(5) counts these 3 and 22."""

PR_SET_TIMERSLACK: Final = 29
"""From linux/prctl.h."""

SETPRIV: Final = "/usr/bin/setpriv"
"""From util-linux; it sets the signal and becomes the program, so that the pid stays."""

_PARENT: Final = ThreadPoolExecutor(1, "parent")
"""The thread that starts what is to die with this process. To the kernel a parent is a thread: whatever a passing one
started, as those of ``asyncio.to_thread`` are, would be killed when that ends. This one stays until the interpreter
ends."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, now and for ever. ``start_ticks`` are the kernel's clock ticks since boot."""

    pid: int
    start_ticks: int
    boot_id: str

    def alive(self) -> bool:
        """Whether it runs; paused counts as running."""
        with self._opened() as fd:
            return fd is not None and not _ended(fd, 0)

    def paused(self) -> bool:
        """Whether it is stopped by SIGSTOP."""
        return self.alive() and _stat(self.pid)[STAT_STATE] in "Tt"

    def send(self, number: signal.Signals) -> bool:
        """Sends a signal; False when the process has ended."""
        with self._opened() as fd:
            if fd is None or _ended(fd, 0):
                return False
            try:
                signal.pidfd_send_signal(fd, number)
            except ProcessLookupError:
                return False
            return True

    def wait(self, timeout_s: float) -> bool:
        """Waits until it has ended; False when the time is over first. Collects it when it is our child."""
        with self._opened() as fd:
            if fd is not None and not _ended(fd, timeout_s):
                return False
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return True

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int | None]:
        try:
            fd = os.pidfd_open(self.pid)
        except OSError as error:
            if error.errno not in {errno.ESRCH, errno.EINVAL}:  # EINVAL: the number is that of a thread by now
                raise
            yield None
            return
        try:
            yield fd if self._is_same() else None
        finally:
            os.close(fd)

    def _is_same(self) -> bool:
        try:
            stat = _stat(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return int(stat[STAT_START]) == self.start_ticks and boot_id() == self.boot_id


def _ended(fd: int, timeout_s: float) -> bool:
    # The handle tells when the last thread has ended, and so every port is free again. The state in /proc says zombie
    # as soon as the first thread has, while the others of a JVM still hold its sockets.
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout_s) * 1_000))


def boot_id() -> str:
    """What names this boot of the machine: start times count from it."""
    return BOOT_ID.read_text("ascii").strip()


def _stat(pid: int) -> list[str]:
    # The name, in parentheses, may hold blanks and parentheses; nothing after it does.
    return Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()


def identify(pid: int) -> ProcessId:
    """Returns the identity of a process that is certainly there, such as a child not yet collected."""
    return ProcessId(pid, int(_stat(pid)[STAT_START]), boot_id())


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    environ: Mapping[str, str] | None = None,
    dies_with_parent: bool = False,
    timer_slack_us: int | None = None,
) -> ProcessId:
    """Starts a program in a session of its own, so that no terminal's Ctrl-C reaches it.

    Its output is added to ``log``. ``argv[0]`` is a path. With ``dies_with_parent`` the kernel kills it when this
    process ends, however it ends; any thread may call. Waits of its threads that end by a timer end up to
    ``timer_slack_us`` late; None: as those of this thread (Linux has 50).
    """
    variables = dict(os.environ if environ is None else environ)
    if not dies_with_parent:
        return _spawn(argv, log, variables, timer_slack_us)
    if not Path(SETPRIV).exists():
        raise MissingError(f"{SETPRIV} is missing. Debian 12: apt-get install util-linux")
    argv = [SETPRIV, "--pdeathsig", "KILL", "--", *argv]
    return _PARENT.submit(_spawn, argv, log, variables, timer_slack_us).result()


def _spawn(argv: Sequence[str], log: Path, environ: Mapping[str, str], timer_slack_us: int | None) -> ProcessId:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    if timer_slack_us is not None:
        _set_timer_slack(timer_slack_us * 1_000)  # a child has that of the thread that starts it, and keeps it
    try:
        pid = os.posix_spawn(
            argv[0],
            list(argv),
            environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(output)
        if timer_slack_us is not None:
            _set_timer_slack(0)  # this thread's own again
    return identify(pid)


def _set_timer_slack(nanoseconds: int) -> None:
    # no wrapper of prctl(2) is in the standard library
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(nanoseconds))
