"""What every command shares: where the service is, how answers are printed, and how errors end."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Concatenate, ParamSpec

import typer
from rich.console import Console

from clients.cli import show
from clients.cli.exits import ExitCode, exit_code
from clients.client import DEADLINE_DEFAULT_S, ENDPOINT_DEFAULT, OrderClient
from clients.errors import OrderError
from clients.tls import Tls

P = ParamSpec("P")
PIPE_WIDTH = 160
"""Columns of a table that does not go to a terminal: wide enough that no id is cut."""

Command = Callable[Concatenate["Session", P], Coroutine[Any, Any, ExitCode | None]]

_SERVICE = "The service"
_OPTIONS: dict[str, tuple[Any, Any]] = {
    "endpoint": (
        Annotated[
            str,
            typer.Option(
                "--endpoint",
                "-e",
                envvar="CREST_ENDPOINT",
                metavar="HOST:PORT,...",
                help="One or more endpoints; the workers are found from there.",
                rich_help_panel=_SERVICE,
            ),
        ],
        ENDPOINT_DEFAULT,
    ),
    "timeout_s": (
        Annotated[
            float,
            typer.Option(
                "--timeout",
                "-t",
                envvar="CREST_TIMEOUT",
                metavar="SECONDS",
                min=0.001,
                help="How long a call may take, with all its retries; load and watch have times of their own.",
                rich_help_panel=_SERVICE,
            ),
        ],
        DEADLINE_DEFAULT_S,
    ),
    "caller_id": (
        Annotated[
            str,
            typer.Option(
                "--caller-id",
                envvar="CREST_CALLER_ID",
                metavar="NAME",
                help="Names you in the service's logs, metrics and limits.",
                rich_help_panel=_SERVICE,
            ),
        ],
        "",
    ),
    "tls_ca": (
        Annotated[
            str,
            typer.Option(
                "--tls-ca",
                envvar="CREST_CLIENT_TLS_CA",
                metavar="FILE",
                help="PEM file of the authority of the service's certificates; turns TLS on.",
                rich_help_panel=_SERVICE,
            ),
        ],
        "",
    ),
    "tls_cert": (
        Annotated[
            str,
            typer.Option(
                "--tls-cert",
                envvar="CREST_CLIENT_TLS_CERT",
                metavar="FILE",
                help="PEM file of your own certificate, where the service asks for one.",
                rich_help_panel=_SERVICE,
            ),
        ],
        "",
    ),
    "tls_key": (
        Annotated[
            str,
            typer.Option(
                "--tls-key",
                envvar="CREST_CLIENT_TLS_KEY",
                metavar="FILE",
                help="PEM file of its key.",
                rich_help_panel=_SERVICE,
            ),
        ],
        "",
    ),
    "as_json": (
        Annotated[bool, typer.Option("--json", help="Print JSON, one object a line, for pipes.")],
        False,
    ),
}


@dataclass(frozen=True, slots=True)
class Session:
    """One run of one command."""

    endpoint: str
    timeout_s: float
    caller_id: str
    tls_ca: str
    tls_cert: str
    tls_key: str
    as_json: bool
    out: Console
    err: Console

    def client(self) -> OrderClient:
        """Returns a client of the service; ``async with`` connects and closes it.

        Raises ValueError for certificates that cannot be used.
        """
        if (self.tls_cert or self.tls_key) and not self.tls_ca:
            raise ValueError("--tls-cert and --tls-key need --tls-ca, which turns TLS on")
        tls = Tls(self.tls_ca, self.tls_cert, self.tls_key) if self.tls_ca else None
        return OrderClient(self.endpoint, caller_id=self.caller_id, deadline_s=self.timeout_s, tls=tls)

    def print_json(self, value: object) -> None:
        """Prints one line of JSON."""
        print(show.json_line(value), flush=True)  # noqa: T201 - the product of the command

    def error(self, error: OrderError) -> ExitCode:
        """Prints a failure, with the next step, on stderr."""
        if self.as_json:
            print(show.json_line(show.error_json(error)), file=sys.stderr)  # noqa: T201 - as above
        else:
            self.err.print(show.error(error))
        return exit_code(error)

    def usage(self, message: str) -> ExitCode:
        """Prints what is wrong with the command line or its input."""
        if self.as_json:
            print(show.json_line({"error": {"code": "USAGE", "message": message}}), file=sys.stderr)  # noqa: T201 - as above
        else:
            self.err.print(show.plain_error(message))
        return ExitCode.USAGE


def command(app: typer.Typer, name: str) -> Callable[[Command[P]], Command[P]]:
    """Registers a coroutine as a command: its parameters after the session, and the options that all commands have."""

    def register(function: Command[P]) -> Command[P]:
        @functools.wraps(function)
        def run(**values: Any) -> None:  # noqa: ANN401 - what typer parsed, for the signature below
            shared = {option: values.pop(option) for option in _OPTIONS}
            raise typer.Exit(_run(Session(**shared, out=_console(), err=_console(stderr=True)), function, values))

        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        shared = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for option, (annotation, default) in _OPTIONS.items()
        ]
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
        app.command(name, help=_unwrapped(inspect.getdoc(function) or ""))(run)
        return function

    return register


def _unwrapped(docstring: str) -> str:
    """Returns a docstring with each paragraph on one line: the terminal's width breaks it, not the editor's."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in docstring.split("\n\n"))


def _run(session: Session, function: Command[...], values: dict[str, Any]) -> int:
    try:
        return asyncio.run(function(session, **values)) or ExitCode.OK
    except OrderError as error:
        return session.error(error)
    except ValueError as error:  # an argument that never became a request
        return session.usage(str(error))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:  # the disk of a load; the network's errors are OrderErrors
        session.err.print(show.plain_error(str(error)))
        return ExitCode.FAILURE


def _console(*, stderr: bool = False) -> Console:
    # what callers, files and stores say is printed as it is: brackets are no markup, and :names: no pictures
    plain = functools.partial(Console, stderr=stderr, highlight=False, markup=False, emoji=False)
    console = plain()
    return console if console.is_terminal else plain(width=PIPE_WIDTH)
