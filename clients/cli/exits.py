"""How a command ends: one exit code for each class of errors, so that a script can decide without reading text."""

from __future__ import annotations

import enum

from clients import errors


class ExitCode(enum.IntEnum):
    """The exit codes; ``--help`` and docs/clients.md list them."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    INVALID = 3
    NOT_FOUND = 4
    CONFLICT = 5
    OVERLOADED = 6
    UNAVAILABLE = 7
    DEADLINE = 8
    SERVER_FAULT = 9
    REJECTS = 10
    STOPPED = 11
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """What the code says."""
        return _MEANING[self]


_MEANING = {
    ExitCode.OK: "done",
    ExitCode.FAILURE: "something that this program did not expect",
    ExitCode.USAGE: "the command line, or the file to load, is wrong",
    ExitCode.INVALID: "the service refused the request as it stands; correct it",
    ExitCode.NOT_FOUND: "there is no such order",
    ExitCode.CONFLICT: "the order's state, version or history does not allow it",
    ExitCode.OVERLOADED: "the service is full; try again later",
    ExitCode.UNAVAILABLE: "nobody answered; try again with the same request id",
    ExitCode.DEADLINE: "no answer in time; try again with the same request id",
    ExitCode.SERVER_FAULT: "a defect or a damage of the service; report it",
    ExitCode.REJECTS: "load: everything else is loaded, some rows stand in the rejects file",
    ExitCode.STOPPED: "load: stopped before the end; the same command continues",
    ExitCode.INTERRUPTED: "interrupted; a load continues with the same command",
}

_BY_CLASS: tuple[tuple[type[errors.OrderError], ExitCode], ...] = (
    (errors.InvalidRequest, ExitCode.INVALID),
    (errors.NotFound, ExitCode.NOT_FOUND),
    (errors.Conflict, ExitCode.CONFLICT),
    (errors.Overloaded, ExitCode.OVERLOADED),
    (errors.Unavailable, ExitCode.UNAVAILABLE),
    (errors.DeadlineExceeded, ExitCode.DEADLINE),
    (errors.ServerFault, ExitCode.SERVER_FAULT),
)


def exit_code(error: errors.OrderError) -> ExitCode:
    """Returns the exit code of an error."""
    return next((code for kind, code in _BY_CLASS if isinstance(error, kind)), ExitCode.FAILURE)


def listing() -> str:
    """Returns all codes with their meaning, a line each, for ``--help``."""
    return "\n".join(["[bold]Exit codes[/bold]", *(f"[cyan]{code:>3}[/cyan]  {code.meaning}" for code in ExitCode)])
