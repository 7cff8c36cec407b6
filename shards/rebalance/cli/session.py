"""What every command shares: where the orders are, who acts, how results are printed and errors end."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import inspect
import json
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import typer.core
from rich.console import Console, RenderableType
from rich.text import Text

from shards.assembly import StorageSettings, TopologyFileWrong, open_fleet, open_next_home
from shards.contract import StoreError
from shards.rebalance.cli.exits import ExitCode
from shards.rebalance.fleet import Deposed, Fleet
from shards.rebalance.home_move import NewHome
from shards.rebalance.plan import PlanRefused
from shards.rebalance.record import IllegalStep

_WIDTH_PIPED: Final = 160
_WHERE: Final = "Where the orders are"

Parameters = Mapping[str, tuple[Any, Any]]
"""Annotation and default of each option, by the name of the argument."""

SHARED: Final[Parameters] = {
    "data_dir": (
        Annotated[
            Path,
            typer.Option("--data-dir", envvar="CREST_DATA_DIR", help="Of the embedded store.", rich_help_panel=_WHERE),
        ],
        Path("data"),
    ),
    "topology_file": (
        Annotated[
            Path | None,
            typer.Option(
                "--topology-file",
                envvar="CREST_TOPOLOGY_FILE",
                help="Of the Cassandra shards; in place of a data directory.",
                rich_help_panel=_WHERE,
            ),
        ],
        None,
    ),
    "as_json": (Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")], False),
}

ACTING: Final[Parameters] = {
    "who": (Annotated[str, typer.Option("--who", help="Kept with the command.", show_default="you")], ""),
    "dry_run": (Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and do nothing.")], False),
}


@dataclass(frozen=True, slots=True)
class Session:
    """One run of one command."""

    data_dir: Path
    topology_file: Path | None
    as_json: bool
    out: Console
    err: Console
    who: str = ""
    dry_run: bool = False

    @property
    def actor(self) -> str:
        """Who acts, for the record."""
        return self.who or f"{getpass.getuser()}@{socket.gethostname()}"

    @contextlib.asynccontextmanager
    async def fleet(self) -> AsyncIterator[Fleet]:
        """Opens the shards. Raises ``StoreError``."""
        settings = StorageSettings(data_dir=self.data_dir)
        if self.topology_file is None and not self.data_dir.is_dir():
            raise ValueError(
                f"there is no directory {self.data_dir}: say with --data-dir or --topology-file where the orders are"
            )
        if self.topology_file is not None:
            settings = StorageSettings(data_dir=self.data_dir, store="cassandra", topology_file=str(self.topology_file))
        fleet = await open_fleet(settings)
        try:
            yield fleet
        finally:
            await fleet.close()

    @contextlib.asynccontextmanager
    async def next_home(self) -> AsyncIterator[NewHome]:
        """Opens where the topology file says that the topology is to be moved. Raises ``StoreError``."""
        if self.topology_file is None:
            raise ValueError("the home moves from one place of a topology file to another: give --topology-file")
        facts, where = await open_next_home(self.topology_file)
        try:
            yield NewHome(facts, where)
        finally:
            await facts.close()

    def print(self, shown: RenderableType, form: object) -> None:
        """Prints a result: for people, or its form as JSON."""
        if self.as_json:
            print(json.dumps(form, separators=(", ", ": ")), flush=True)  # noqa: T201  the product of the command
        else:
            self.out.print(shown)

    def failed(self, code: ExitCode, message: object) -> ExitCode:
        """Prints one line on stderr, and returns the code."""
        if self.as_json:
            form = {"error": {"code": code.name, "message": str(message)}}
            print(json.dumps(form), file=sys.stderr)  # noqa: T201  as above
        else:
            self.err.print(Text.assemble(("✗ ", "red"), str(message)), soft_wrap=True)
        return code


class _InTheOrderOfUse(typer.core.TyperGroup):
    """Lists what comes first of an evening first; typer would list groups of commands last."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # typer's own copy of click
        """See click."""
        first = ("plan", "start", "status")
        return sorted(super().list_commands(ctx), key=lambda name: first.index(name) if name in first else len(first))


def typer_of(help_text: str, **more: str) -> typer.Typer:
    """Returns an application without commands yet."""
    return typer.Typer(
        cls=_InTheOrderOfUse,
        help=help_text,
        add_completion=False,  # there is no program of its own name to complete
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **more,  # type: ignore[arg-type]  # of many types; here only texts
    )


Action = Callable[..., Awaitable[ExitCode | None]]


def register(
    app: typer.Typer, name: str, action: Action, *options: Parameters, like: Callable[..., Any] | None = None
) -> None:
    """Makes a coroutine a command: the parameters after the session (of ``like``: and its help), and these options."""
    shown = like or action
    extra = {**{key: value for each in options for key, value in each.items()}, **SHARED}
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in list(inspect.signature(shown, eval_str=True).parameters.values())[1:]
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD and parameter.name not in extra
    ]

    def run(**values: Any) -> None:  # noqa: ANN401  what typer parsed, for the signature below
        of_session = {key: values.pop(key) for key in (*SHARED, *ACTING) if key in values}
        session = Session(**of_session, out=_console(), err=_console(stderr=True))
        raise typer.Exit(_run(session, action, values))

    shared = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for key, (annotation, default) in extra.items()
    ]
    run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    app.command(name, help=_unwrapped(inspect.getdoc(shown) or ""))(run)


_CODES: Final = (
    ((PlanRefused, IllegalStep, Deposed), ExitCode.REFUSED),
    ((TopologyFileWrong,), ExitCode.USAGE),
    ((StoreError,), ExitCode.UNAVAILABLE),
    ((ValueError,), ExitCode.USAGE),  # an argument that makes no sense
)


def _run(session: Session, action: Action, values: dict[str, Any]) -> int:
    logging.getLogger().addHandler(logging.NullHandler())  # what movers say is shown by the commands themselves
    try:
        return asyncio.run(_awaited(action(session, **values))) or ExitCode.OK
    except (PlanRefused, IllegalStep, Deposed, StoreError, ValueError) as error:
        return session.failed(next(code for kinds, code in _CODES if isinstance(error, kinds)), error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `| head` has seen enough; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception:  # noqa: BLE001  Python's own exit code would say that something was found
        traceback.print_exc()
        return ExitCode.DEFECT


async def _awaited(coroutine: Awaitable[ExitCode | None]) -> ExitCode | None:
    return await coroutine


def _unwrapped(docstring: str) -> str:
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in docstring.split("\n\n"))


def _console(*, stderr: bool = False) -> Console:
    # what callers, files and stores say is printed as it is: brackets are no markup, and :names: no pictures
    plain = partial(Console, stderr=stderr, highlight=False, markup=False, emoji=False)
    console = plain()
    return console if console.is_terminal else plain(width=_WIDTH_PIPED)
