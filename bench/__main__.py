"""`python -m bench`: the benchmark of this checkout. `python -m bench ghz`: that of a server which is running."""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import campaign, ghz, load, machine, profiling, report
from bench.subjects import SubjectError
from bench.summary import Round

RESULTS: Final = ghz.ROOT / "bench" / "results"
CONFIG: Final = ghz.ROOT / "bench" / "config"
_TRANSPORTS: Final = ("native", "grpcio")

app = typer.Typer(add_completion=False, help=__doc__)
_WIDTH: Final = 150
"""Of a table in a pipe or a log, which have no width of their own."""

_out = Console() if sys.stdout.isatty() else Console(width=_WIDTH)


@app.callback(invoke_without_command=True)
def compare(  # noqa: PLR0913  # typer takes each option as a parameter
    context: typer.Context,
    *,
    quick: Annotated[bool, typer.Option(envvar="QUICK", help="Fewer, shorter rounds: a look, not a figure.")] = False,
    transport: Annotated[
        list[str] | None, typer.Option(help="native (default), grpcio, or both by giving both.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Closed-loop rounds against each subject.")] = 5,
    open_rounds: Annotated[int, typer.Option(min=0, max=50, help="Open-loop rounds against each subject.")] = 3,
    round_s: Annotated[float, typer.Option(min=1, max=60, help="Seconds of load of one round.")] = 5.0,
    workers: Annotated[int, typer.Option(min=1, max=32, help="Worker processes of each subject.")] = max(
        2, len(os.sched_getaffinity(0))
    ),
    callers: Annotated[int, typer.Option(min=1, max=4096, help="Concurrent calls.")] = 256,
    connections: Annotated[int, typer.Option(min=1, max=1024, help="HTTP/2 connections.")] = 16,
    host: Annotated[str, typer.Option(help="Loopback address to serve on.")] = "127.0.0.26",
    port: Annotated[int, typer.Option(min=1024, max=32000, help="First of about 200 ports to use.")] = 20_100,
) -> None:
    """Load Crest and a server that does nothing in turn, on one transport, and compare."""
    if context.invoked_subcommand is not None:
        return
    if not host.startswith("127."):
        raise typer.BadParameter("only loopback addresses (127.x.y.z) are loaded", param_hint="--host")
    transports = transport or ["native"]
    for name in transports:
        if name not in _TRANSPORTS:
            raise typer.BadParameter(f"is one of {', '.join(_TRANSPORTS)}", param_hint="--transport")
    if quick:
        rounds, open_rounds, round_s = min(rounds, 2), min(open_rounds, 1), min(round_s, 3.0)
    plan = campaign.Plan(host, port, workers, callers, connections, rounds, open_rounds, round_s)
    RESULTS.mkdir(exist_ok=True)
    seed = random.SystemRandom().getrandbits(32)
    try:
        ghz.ensure()
        # beside the results, not in the system's temporary folder, which may be no disk at all
        with tempfile.TemporaryDirectory(dir=RESULTS, prefix="run-") as scratch:
            facts = machine.facts(Path(scratch))
            done = _run(plan, transports, Path(scratch), seed)
    except (ghz.GhzError, SubjectError) as error:
        _out.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    report.show(done, facts, _out)
    report.keep(done, facts, plan._asdict() | {"seed": seed, "ghz": ghz.VERSION}, RESULTS / "latest.json")
    _out.print(f"kept in {(RESULTS / 'latest.json').relative_to(ghz.ROOT)}")
    raise typer.Exit(1 if any(result.stored < result.acknowledged for result in done) else 0)


def _run(plan: campaign.Plan, transports: list[str], scratch: Path, seed: int) -> list[campaign.Result]:
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=_out
    ) as progress:
        bar = progress.add_task("starting", total=plan.steps * len(transports))

        def tell(what: str, done: Round | None) -> None:
            if done is None:
                progress.update(bar, description=what)
                return
            progress.advance(bar)
            progress.print(
                f"{what:<24} {done.orders_per_s:>8,.0f}/s  p50 {done.p50_ms:.1f} ms  p99 {done.p99_ms:.1f} ms"
            )

        return [campaign.run(plan, transport, scratch, random.Random(seed), tell) for transport in transports]


@app.command("ghz", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_ghz(
    context: typer.Context,
    *,
    reflection: Annotated[bool, typer.Option(help="Ask the server for its proto instead of reading ours.")] = False,
) -> None:
    """Run ghz with our configuration against a server that is running; what follows goes to ghz (host, -z 30s, ...)."""
    try:
        binary = ghz.ensure()
    except ghz.GhzError as error:
        _out.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    config = CONFIG / ("create-order-reflection.json" if reflection else "create-order.json")
    argv = [str(binary), f"--config={config.relative_to(ghz.ROOT)}", *context.args]
    _out.print("$ " + " ".join([str(binary.relative_to(ghz.ROOT)), *argv[1:]]), style="dim", markup=False)
    os.chdir(ghz.ROOT)
    os.execv(binary, argv)  # noqa: S606  # the program is ghz from here on: its signals and its exit code


@app.command()
def profile(
    *,
    seconds: Annotated[float, typer.Option(min=1, max=60, help="How long samples are taken.")] = 10.0,
    transport: Annotated[str, typer.Option(help="native or grpcio.")] = "native",
    rows: Annotated[int, typer.Option(min=1, max=200, help="Rows of each table.")] = 30,
    host: Annotated[str, typer.Option(help="Loopback address to serve on.")] = "127.0.0.26",
    port: Annotated[int, typer.Option(min=1025, max=32000, help="First of the ports to use.")] = 20_350,
) -> None:
    """Load Crest, look at one worker with py-spy, and tell which lines hold the interpreter's lock."""
    RESULTS.mkdir(exist_ok=True)
    try:
        ghz.ensure()
        with tempfile.TemporaryDirectory(dir=RESULTS, prefix="run-") as scratch:
            found = profiling.record(seconds, transport, host, port, Path(scratch))
    except (ghz.GhzError, SubjectError, profiling.ProfileError) as error:
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
