"""`python -m bench`: the benchmark of this checkout. `python -m bench ghz`: that of a server which is running."""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import grpc
import msgspec
import typer
from rich.console import Console

from bench import campaign, ghz, keeping, load, machine, operator, page, profiling, table
from bench.installed import ROOT, InstallError
from bench.subjects import SubjectError

RESULTS: Final = ROOT / "bench" / "results"
HISTORY: Final = ROOT / "bench" / "history.jsonl"
_WIDTH: Final = 170
"""Of a table in a pipe or a log, which have no width of their own."""

_FAILURE_CHARS: Final = 600

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)
_out = Console() if sys.stdout.isatty() else Console(width=_WIDTH)


@app.callback(invoke_without_command=True)
def measure(
    context: typer.Context,
    *,
    quick: Annotated[bool, typer.Option(envvar="QUICK", help="A look in a few minutes, not figures.")] = False,
    large: Annotated[bool, typer.Option(help="Only: 5 million orders stored against 50,000.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Only this part; may be given again.")] = None,
    resume: Annotated[bool, typer.Option(help="Take up the last run: only what it has no result of.")] = False,
) -> None:
    """Measure Crest and its peers on a cluster of their own, print the table, write JSON and a page."""
    if context.invoked_subcommand is not None:
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave, and end what was started
    chosen = campaign.parts(campaign.LARGE if large else campaign.MODULES)
    if unknown := set(only or ()) - {part.name for part in chosen}:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: there are {', '.join(part.name for part in chosen)}")
    chosen = [part for part in chosen if not only or part.name in only]
    RESULTS.mkdir(exist_ok=True)
    run = keeping.taken_up(RESULTS) if resume else None
    if run is None:
        run = keeping.begun(RESULTS, datetime.now(UTC), is_quick=quick, seed=random.SystemRandom().getrandbits(32))
    facts = machine.facts(RESULTS)
    results = campaign.run_all(run, chosen, _tell)
    table.show(results, facts, _out)
    written = [keeping.keep(results, facts, run), page.write(results, facts, run.folder / "report.html")]
    if not run.is_quick:  # a look is no history
        keeping.remember(results, facts, HISTORY)
        written.append(HISTORY)
    for file in written:
        _out.print(f"written: {file.relative_to(ROOT)}")
    raise typer.Exit(1 if any(result.failure for result in results) else 0)


def _tell(line: str) -> None:
    _out.print(f"{datetime.now(UTC):%H:%M:%S} {line}", style="dim", markup=False, highlight=False)


@app.command("part", hidden=True)
def measure_part(
    name: Annotated[str, typer.Argument(help="Which.")],
    folder: Annotated[Path, typer.Option(help="Of the run; the cluster is in it.")],
    seed: Annotated[int, typer.Option(help="Of the load.")] = 0,
    *,
    quick: Annotated[bool, typer.Option()] = False,
) -> None:
    """Measure one part and keep what it found: what the benchmark starts for each."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run = campaign.Run(folder, quick, seed)
    try:
        campaign.measure_and_keep(run, campaign.named(name), lambda line: print(line, flush=True))
    except Exception as error:
        traceback.print_exc()
        # the last line is what the table says of a part that failed
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:_FAILURE_CHARS]}", flush=True)
        raise typer.Exit(1) from error


@app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(help="Of a run, in bench/results.")],
    *,
    markdown: Annotated[bool, typer.Option(help="Print a table for a document instead, and nothing else.")] = False,
) -> None:
    """Print the table of a run again, and write its page again."""
    try:
        results, facts = keeping.read(folder / keeping.SUMMARY)
    except (OSError, KeyError, msgspec.DecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"not what a run writes: {error}"
        _out.print(f"{folder / keeping.SUMMARY}: {why}", style="red", markup=False)
        raise typer.Exit(1) from error
    if markdown:
        print(table.markdown(results, facts))
        return
    table.show(results, facts, _out)
    _out.print(f"written: {page.write(results, facts, folder / 'report.html')}")


@app.command("ghz", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_ghz(
    context: typer.Context,
    method: Annotated[operator.Method, typer.Argument(help="What is called.")],
    address: Annotated[str, typer.Argument(help="host:port of the service.")] = "127.0.0.1:50051",
    *,
    shape: Annotated[operator.Shape, typer.Option(help="How the load comes.")] = operator.Shape.CONSTANT,
    rate: Annotated[int, typer.Option(min=0, help="Calls a second at the most; 0: as many as 256 callers can.")] = 0,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long.")] = 10.0,
    at: Annotated[str, typer.Option(help="HH:MM, local time, at which the last rise of the load is to come.")] = "",
) -> None:
    """Load a service that is running, with ghz; what is not known here goes to ghz (--connections=64, ...).

    The orders that are made stay there. The page is bench/results/ghz-METHOD.html.
    """
    if shape is not operator.Shape.CONSTANT and not rate:
        raise typer.BadParameter("a load that rises needs one", param_hint="--rate")
    wanted = operator.Load(method, shape, rate, seconds)
    report = RESULTS / f"ghz-{method}.json"
    RESULTS.mkdir(exist_ok=True)
    try:
        if method in operator.READS + operator.TRANSITIONS:
            _tell("creating the orders to work on")
        if made := operator.prepare(address, wanted):
            _tell(f"{made:,} are there")
        if at:
            pause_s = operator.starts_in_s(at, datetime.now().astimezone(), wanted)
            _tell(f"starting in {pause_s:,.0f} s, so that the load rises at {at}")
            operator.wait(pause_s)
        calls = operator.run(address, wanted, context.args, report)
    except (InstallError, ghz.GhzError, grpc.RpcError, ValueError) as error:
        # who prepares orders tells of the first call that failed
        text = f"{address}: {error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)
        _out.print(text, style="red", markup=False)
        raise typer.Exit(1) from error
    outcome = operator.outcome(calls, wanted, address)
    if not outcome.rows:
        _out.print("; ".join(outcome.findings), style="red", markup=False)
        raise typer.Exit(1)
    heading = f"{method} at {address}"
    found = campaign.Kept(method, heading, seconds, outcome)
    table.show([found], machine.facts(RESULTS), _out)
    written = page.write([found], machine.facts(RESULTS), report.with_suffix(".html"), heading, report.name)
    _out.print(f"written: {written.relative_to(ROOT)}")


@app.command()
def profile(
    *,
    seconds: Annotated[float, typer.Option(min=1, max=60, help="How long samples are taken.")] = 10.0,
    transport: Annotated[str, typer.Option(help="native or grpcio.")] = "native",
    rows: Annotated[int, typer.Option(min=1, max=200, help="Rows of each table.")] = 30,
    orders: Annotated[int, typer.Option(min=1, max=500, help="Orders of a call: more than one are a batch.")] = 1,
    host: Annotated[str, typer.Option(help="Loopback address to serve on.")] = "127.0.0.26",
    port: Annotated[int, typer.Option(min=1025, max=32000, help="First of the ports to use.")] = 20_350,
) -> None:
    """Load Crest, look at one worker with py-spy, and tell which lines hold the interpreter's lock."""
    RESULTS.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=RESULTS, prefix="run-") as scratch:
            found = profiling.record(seconds, transport, host, port, Path(scratch), orders_per_call=orders)
    except (InstallError, ghz.GhzError, SubjectError, profiling.ProfileError) as error:
        _out.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    profiling.show(found, rows, _out)


@app.command()
def messages(
    file: Annotated[Path, typer.Argument(help="Where to write them.")],
    count: Annotated[int, typer.Argument(min=1, max=load.MESSAGES_MAX, help="How many.")],
) -> None:
    """Write unique CreateOrder requests for `ghz --binary-file`, cheaper for ghz than a template."""
    load.write_messages(file, count, random.Random())
    _out.print(f"{count:,} messages in {file}; send them within 15 minutes, each once")


if __name__ == "__main__":
    app()
