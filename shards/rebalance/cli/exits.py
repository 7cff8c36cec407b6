"""How a command ends: one exit code for each kind of ending, so that a script can decide without reading text."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """The exit codes; ``--help`` lists them."""

    OK = 0
    FOUND = 1
    USAGE = 2
    REFUSED = 3
    UNAVAILABLE = 4
    UNFINISHED = 5
    DEFECT = 6

    @property
    def meaning(self) -> str:
        """What the code says."""
        return _MEANING[self]


_MEANING = {
    ExitCode.OK: "done",
    ExitCode.FOUND: "verify or doctor: something is wrong",
    ExitCode.USAGE: "the command line, or the topology file, is wrong",
    ExitCode.REFUSED: "not a legal step now; the message says what is",
    ExitCode.UNAVAILABLE: "where the orders or the topology are kept does not answer, or is not as told",
    ExitCode.UNFINISHED: "the mover left before the end, or slots are stuck; nothing is lost",
    ExitCode.DEFECT: "something that this program did not expect; nothing is lost, and `run` goes on",
}


def listing() -> str:
    """Returns all codes with their meaning, a line each, for ``--help``."""
    return "\n".join(["[bold]Exit codes[/bold]", *(f"[cyan]{code:>3}[/cyan]  {code.meaning}" for code in ExitCode)])
