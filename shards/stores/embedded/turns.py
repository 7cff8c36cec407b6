"""Turns: writers of several processes go one after the other, and who waits is next.

SQLite alone lets a waiting writer poll, with pauses that grow to 100 ms, so a busy process starves the others. Two
advisory locks (``flock``) make a queue of it: *turn* is held while writing, *next* while waiting for the turn. A writer
that has just let go of its turn and wants another finds *next* taken by whoever waited, and lines up behind.

The kernel frees both when their holder dies, however it dies. They are files of their own: closing any descriptor of
the database itself would drop SQLite's POSIX locks on it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType


class Turn:
    """The right of one process to write to one file: ``with turn: ...`` waits for it, fairly.

    One thread of a process uses it; not reentrant. Raises ``OSError`` from the constructor when a lock file cannot be
    opened. The wait itself has no timeout, because a holder that stops is ended by the supervisor.
    """

    def __init__(self, path: Path) -> None:
        """Opens, and where needed creates, the lock files beside the database ``path``."""
        self._next = _open(path.with_name(path.name + ".next"))
        try:
            self._turn = _open(path.with_name(path.name + ".turn"))
        except OSError:
            os.close(self._next)
            raise

    def __enter__(self) -> None:
        fcntl.flock(self._next, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._turn, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._turn, fcntl.LOCK_UN)

    def close(self) -> None:
        """Closes the lock files, and so lets go of what is held."""
        os.close(self._next)
        os.close(self._turn)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
