"""Turns: writers of several processes share SQLite's one write lock, and none of them starves.

SQLite alone lets a waiting writer poll with pauses that grow to 100 ms, so that a busy process shuts out the others for
as long as it is busy. Here the pauses stay short, and a writer whose patience ends shuts the *gate* that every writer
passes before it begins: those inside finish, nobody new comes in, and the next poll succeeds.

The gate is a lock (``flock``) that is held only by whoever starves. A queue of locks held around every commit would be
fairer still, and slower: its holder waits for the interpreter lock twice, with all other processes behind it. SQLite
takes and frees its own lock inside one call, without the interpreter.

The kernel opens the gate when who shut it dies, however it dies. It is a file of its own: closing any descriptor of the
database itself would drop SQLite's POSIX locks on it.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final

POLL_S: Final = 0.0005
"""Pause between two tries for SQLite's lock: about the length of one commit."""

PATIENCE_POLLS: Final = 12
"""Tries (6 ms and more) after which the gate is shut. Others commit meanwhile, so this is the price of fairness."""

POLLS_MAX: Final = 10_000
"""Tries (5 s and more) after which SQLite reports BUSY: then somebody holds the lock who does not let go."""


class Turns:
    """The gate of one file: ``with turns: ...`` around each write, ``turns.poll`` as the connection's busy handler.

    One thread uses it; not reentrant. Raises ``OSError`` when the lock file cannot be opened or locked. At the gate
    itself there is no timeout: who shut it and stops is ended by the supervisor.
    """

    def __init__(self, path: Path) -> None:
        """Opens, and where needed creates, the lock file beside the database ``path``."""
        gate = path.with_name(path.name + ".gate")
        self._gate: Final = os.open(gate, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._is_shut = False

    def __enter__(self) -> None:
        # Shared: those who pass do not hinder each other, only who has shut the gate hinders them.
        fcntl.flock(self._gate, fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_shut:
            self._is_shut = False
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def poll(self, polls: int) -> bool:
        """Waits a little for SQLite's lock, for the ``polls``-th time since 0; False gives up."""
        if polls >= PATIENCE_POLLS and not self._is_shut:
            fcntl.flock(self._gate, fcntl.LOCK_EX)
            self._is_shut = True
        time.sleep(POLL_S)
        return polls < POLLS_MAX

    def close(self) -> None:
        """Closes the lock file, and so opens the gate."""
        os.close(self._gate)
