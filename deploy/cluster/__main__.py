"""``python -m deploy.cluster up | down | status | logs``: what ``make up``, ``make down`` and ``make status`` run."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from deploy.cluster import describe
from deploy.cluster.cluster import READY_TIMEOUT_S, STOP_GRACE_S, Cluster
from deploy.cluster.errors import ClusterError
from deploy.cluster.spec import ClusterSpec, CommitLogSync, SpecError


class Exit(IntEnum):
    """Exit codes of these commands; 2 is a wrong option."""

    OK = 0
    FAILED = 1
    NOT_READY = 3
    """``status`` only: there is no cluster, or some node does not serve."""


DIRECTORY: Final = Path(".cluster")

app = typer.Typer(
    help="A development cluster of Cassandra shards and a Redis Cluster on loopback addresses.",
    epilog="Exit codes: 0 done, 1 failed (one line says why), 2 a wrong option, 3 (status) not everything is ready.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Directory = Annotated[Path, typer.Option("--dir", help="Folder of the cluster: settings, logs and data.")]


@contextmanager
def _told() -> Iterator[None]:
    """Ends the command with one line for an error that an operator can act on."""
    try:
        yield
    except (ClusterError, SpecError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(Exit.FAILED) from error
    except KeyboardInterrupt as error:
        typer.echo("interrupted; what was started runs on: `up` goes on, `down` ends it", err=True)
        raise typer.Exit(Exit.FAILED) from error


def _reporter() -> Callable[[str], None]:
    begun = time.monotonic()
    return lambda line: typer.echo(f"{time.monotonic() - begun:6.1f} s  {line}")


def _recorded(directory: Path, report: Callable[[str], None] = lambda _: None) -> Cluster | None:
    return Cluster.recorded(directory, report=report)


@app.command()
def up(  # noqa: PLR0913  # typer reads the signature: a parameter is an option
    directory: Directory = DIRECTORY,
    *,
    shards: Annotated[int | None, typer.Option(help="Shards, a Cassandra ring each. [new clusters: 3]")] = None,
    replicas: Annotated[int | None, typer.Option(help="Nodes of each shard, 1 or 3. [new clusters: 1]")] = None,
    commit_log_sync: Annotated[
        CommitLogSync | None, typer.Option(help="When Cassandra answers a write. [new clusters: group]")
    ] = None,
    heap_mib: Annotated[int | None, typer.Option(help="Heap of each JVM. [new clusters: 1024]")] = None,
    quick_start: Annotated[
        bool | None, typer.Option(help="Boot on half the CPU time and serve slower. [new clusters: no]")
    ] = None,
    redis: Annotated[bool | None, typer.Option(help="With a Redis Cluster. [new clusters: yes]")] = None,
    first_address: Annotated[str | None, typer.Option(help="Loopback address of the first node.")] = None,
    cql_port: Annotated[int | None, typer.Option(help="[new clusters: 9042]")] = None,
    storage_port: Annotated[int | None, typer.Option(help="[new clusters: 7000]")] = None,
    jmx_first_port: Annotated[int | None, typer.Option(help="0 for no JMX. [new clusters: 7199]")] = None,
    redis_first_port: Annotated[int | None, typer.Option(help="[new clusters: 6401]")] = None,
    timeout_s: Annotated[float, typer.Option(help="For each step.")] = READY_TIMEOUT_S,
) -> None:
    """Start what is not running, with the data it had; wait until all of it serves; tell where."""
    asked = {
        "shards": shards,
        "replicas": replicas,
        "commit_log_sync": commit_log_sync,
        "heap_mib": heap_mib,
        "quick_start": quick_start,
        "redis": redis,
        "first_address": first_address,
        "cql_port": cql_port,
        "storage_port": storage_port,
        "redis_first_port": redis_first_port,
    }
    changes: dict[str, object] = {name: value for name, value in asked.items() if value is not None}
    if jmx_first_port is not None:
        changes["jmx_first_port"] = jmx_first_port or None
    with _told():
        recorded = _recorded(directory)
        # What is not said stays as it was made.
        spec = dataclasses.replace(ClusterSpec() if recorded is None else recorded.spec, **changes)  # type: ignore[arg-type]  # typer checked each value
        cluster = Cluster(spec, directory, report=_reporter())
        if not cluster.up(timeout_s=timeout_s):
            typer.echo("everything was running")
        Console().print(describe.as_table(describe.examine(cluster)))
        typer.echo(describe.summary(cluster))


@app.command()
def down(
    directory: Directory = DIRECTORY,
    *,
    wipe: Annotated[bool, typer.Option("--wipe", help="Remove the folder with all data.")] = False,
    grace_s: Annotated[float, typer.Option(help="Before nodes are killed; 0 kills at once.")] = STOP_GRACE_S,
) -> None:
    """End what `up` started, and nothing else. Data stay for the next `up`."""
    with _told():
        cluster = _recorded(directory, _reporter())
        if cluster is None or not cluster.down(grace_s=grace_s, wipe=wipe):
            typer.echo("nothing was running")


@app.command()
def status(
    directory: Directory = DIRECTORY,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    brief: Annotated[
        bool, typer.Option("--brief", help="One line of what is missing; nothing when all serves.")
    ] = False,
) -> None:
    """Tell what runs and what serves."""
    with _told():
        cluster = _recorded(directory)
        if cluster is None:
            nothing = "there is no cluster; `make up` makes one"
            typer.echo(json.dumps({"ready": False, "nodes": []}) if as_json else nothing, err=brief)
            raise typer.Exit(Exit.NOT_READY)
        reports = describe.examine(cluster)
        if brief:
            if missing := describe.missing(reports):
                typer.echo(f"the cluster is not ready: {missing}; `make up` revives it", err=True)
        elif as_json:
            typer.echo(json.dumps(describe.as_json(cluster, reports), indent=2))
        else:
            Console().print(describe.as_table(reports))
        if any(report.state is not describe.NodeState.READY for report in reports):
            raise typer.Exit(Exit.NOT_READY)


@app.command()
def logs(
    node: Annotated[str, typer.Argument(help="Name of a node, as `status` shows it.")],
    directory: Directory = DIRECTORY,
    *,
    lines: Annotated[int, typer.Option(help="How many, from the end.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
) -> None:
    """Show what a node printed."""
    with _told():
        cluster = _recorded(directory)
        if cluster is None:
            raise ClusterError(f"{directory} holds no cluster")
        log = cluster.named(node).log
        if not log.exists():
            raise ClusterError(f"{node} was never started")
        sys.stdout.flush()
        os.execvp("tail", ["tail", f"--lines={lines}", *(["--follow=name"] if follow else []), str(log)])  # noqa: S606, S607  # tail becomes this process


if __name__ == "__main__":
    app(prog_name="python -m deploy.cluster")
