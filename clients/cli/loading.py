"""``load``: a file of orders, with a progress bar, and an end whatever happens."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from clients.cli import show
from clients.cli.exits import ExitCode
from clients.cli.session import Session, command
from clients.load import Journal, JournalError, Loader, LoadStopped, Pace, Table, TableError, Totals, rejects_path

PLAIN_INTERVAL_S: Final = 5.0
"""Between two lines of progress where there is no terminal."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "load")(load)


async def load(
    session: Session,
    file: Annotated[
        Path, typer.Argument(metavar="FILE.csv", help="The orders, a row a line.", exists=True, dir_okay=False)
    ],
    *,
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="N", min=0.1, help="At most so many orders a second.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, max=500, metavar="N", help="Orders a call.")] = 100,
    in_flight: Annotated[int, typer.Option("--in-flight", min=1, max=64, metavar="N", help="Calls at a time.")] = 4,
    patience: Annotated[
        float,
        typer.Option("--patience", metavar="SECONDS", min=0, help="Stop after so long without an acknowledgement."),
    ] = 60.0,
    anew: Annotated[
        bool, typer.Option("--anew", help="Forget an earlier load of this file; its orders are created again.")
    ] = False,
) -> ExitCode:
    """Load a CSV file of orders, each exactly once.

    The header is [cyan]customer_id,currency_code,sku,quantity,unit_price[/], with decimal prices. Rows with the same
    [cyan]order_ref[/] are lines of one order; [cyan]attr.NAME[/] columns become attributes.

    Bad rows go to FILE.rejects.csv, each with its reason, and the rest goes on. Interrupted or killed at any point,
    the same command continues where it stopped: FILE.csv.journal remembers.
    """
    try:
        table = Table(file)
        survey = await asyncio.to_thread(table.survey)
        with Journal.open(file, survey.digest, endpoint=session.endpoint, anew=anew) as journal:
            if journal.complete is not None:
                return _loaded_before(session, journal)
            totals = Totals(orders_in_file=survey.orders)
            pace = Pace(batch_orders_max=batch, batches_in_flight_max=in_flight, rate=rate, patience_s=patience)
            return await _load(session, table, journal, totals, pace)
    except (TableError, JournalError) as error:
        return session.usage(str(error))


async def _load(session: Session, table: Table, journal: Journal, totals: Totals, pace: Pace) -> ExitCode:
    stopped: LoadStopped | None = None
    finished = False
    async with session.client() as client:
        with _Bar(session, table.path.name, totals) as bar:
            loader = Loader(client, table, journal, totals, pace=pace, progress=bar.update)
            running = asyncio.create_task(loader.run())
            interrupts = _Interrupts(loader, running, bar)
            try:
                finished = await running
            except LoadStopped as reason:
                stopped = reason
            except asyncio.CancelledError:
                if not interrupts.count:
                    raise
            finally:
                interrupts.close()
    _summarise(session, table.path, totals, finished=finished)
    if stopped is not None:
        session.err.print(show.plain_error(f"stopped: {stopped}"))
        return ExitCode.STOPPED
    if interrupts.count:
        return ExitCode.INTERRUPTED
    return ExitCode.REJECTS if totals.rejected_rows else ExitCode.OK


def _summarise(session: Session, path: Path, totals: Totals, *, finished: bool) -> None:
    rejects = str(rejects_path(path)) if totals.rejected_rows else ""
    if session.as_json:
        session.print_json({"finished": finished, **totals.as_json(), "rejects_file": rejects})
    else:
        session.out.print(show.totals(totals, finished=finished, name=path.name, rejects=rejects))


def _loaded_before(session: Session, journal: Journal) -> ExitCode:
    complete = journal.complete or {}
    if session.as_json:
        session.print_json({"finished": True, **complete, "loaded_before": True})
    else:
        name, endpoint = journal.header["file"], journal.header["endpoint"]
        rejected = complete.get("rejected_rows", 0)
        rows = "row" if rejected == 1 else "rows"
        session.out.print(
            Text.assemble(
                ("✓ ", "green"),
                (name, "bold"),
                f" was loaded before, into {endpoint}: {complete.get('loaded', 0):,} orders",
                *((", and ", (f"{rejected:,} {rows} rejected", "yellow")) if rejected else ()),
                (f"\n  Nothing was sent. {journal.path} remembers; --anew loads the file a second time.", "dim"),
            )
        )
    return ExitCode.REJECTS if complete.get("rejected_rows") else ExitCode.OK


class _Interrupts:
    """Ctrl-C: the first lets the calls in flight end, the second does not wait."""

    def __init__(self, loader: Loader, running: asyncio.Task[bool], bar: _Bar) -> None:
        self.count = 0
        self._loader = loader
        self._running = running
        self._bar = bar
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._interrupt)

    def close(self) -> None:
        """Gives the signals back."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.remove_signal_handler(number)

    def _interrupt(self) -> None:
        self.count += 1
        self._loader.stop()
        self._bar.say("finishing the calls in flight; Ctrl-C again stops at once")
        if self.count > 1:
            self._running.cancel()


class _RateColumn(ProgressColumn):
    """Orders a second, by this run."""

    def __init__(self, totals: Totals) -> None:
        super().__init__()
        self._totals = totals

    def render(self, _task: Task) -> Text:
        """The column's text."""
        return Text(f"{self._totals.rate:,.0f}/s", style="cyan")


class _Bar:
    """The progress of a load: a bar on a terminal, a line now and then elsewhere, nothing beside JSON."""

    def __init__(self, session: Session, name: str, totals: Totals) -> None:
        self._totals = totals
        self._err: Console = session.err
        self._name = name
        self._plain = not session.err.is_terminal and not session.as_json
        self._said_at = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            _RateColumn(totals),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[rejected]}", style="yellow"),
            console=session.err,
            transient=True,
            expand=True,
            disable=not session.err.is_terminal or session.as_json,
        )
        self._task = self._progress.add_task(name, total=totals.orders_in_file, rejected="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.update()
        self._progress.stop()

    def update(self) -> None:
        """Shows the totals as they are now."""
        totals = self._totals
        rejected = f"{totals.rejected_rows:,} rejected" if totals.rejected_rows else ""
        self._progress.update(self._task, completed=totals.done, rejected=rejected)
        if self._plain and time.monotonic() - self._said_at >= PLAIN_INTERVAL_S:
            self._said_at = time.monotonic()
            self.say(f"{totals.done:,} of {totals.orders_in_file:,}, {totals.rate:,.0f} orders/s {rejected}".rstrip())

    def say(self, message: str) -> None:
        """Prints a line above the bar."""
        self._progress.console.print(Text(f"{self._name}: {message}", style="dim"))
