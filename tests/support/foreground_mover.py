"""A mover as the command line runs it, whose view goes while slots are paused.

``python -m tests.support.foreground_mover HOW WORDS...``: ``WORDS`` are a command that moves. ``unread``: at its first
pause it says so on stderr, and stays there until nobody reads its stdout. ``hangup``: it is told there that its
terminal has gone; ``nohup``: the same, and it was started to ignore that.
"""

import asyncio
import io
import os
import signal
import sys
from functools import partial
from unittest import mock

from shards.rebalance.cli import working
from shards.rebalance.cli.app import app
from shards.rebalance.mover import Mover

PAUSED = b"paused\n"


class Told(io.TextIOWrapper):
    """A stdout that knows when its reader has gone."""

    def __init__(self) -> None:
        super().__init__(open(sys.stdout.fileno(), "wb", closefd=False))  # noqa: SIM115  open as long as the process
        self.is_unread = asyncio.Event()

    def flush(self) -> None:
        """Writes what was printed."""
        try:
            super().flush()
        except BrokenPipeError:
            self.is_unread.set()
            raise


def main(how: str, *words: str) -> None:
    """Runs the command."""
    told = sys.stdout = Told()
    left = [how]
    # whoever runs the tests may be kept by nohup, too
    signal.signal(signal.SIGHUP, signal.SIG_IGN if how == "nohup" else signal.SIG_DFL)

    async def at(reached: str) -> None:
        if reached != "after pause" or not left:
            return
        left.clear()
        if how == "unread":
            os.write(sys.stderr.fileno(), PAUSED)
            await told.is_unread.wait()
        else:
            os.kill(os.getpid(), signal.SIGHUP)

    # a line as soon as there is something to tell
    with mock.patch.object(working, "Mover", partial(Mover, at=at)), mock.patch.object(working, "_LINE_S", 0.1):
        app(words)


if __name__ == "__main__":
    main(*sys.argv[1:])
