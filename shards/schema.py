"""Creates and checks the keyspaces that a topology file names: ``python -m shards.schema apply|status``.

Exit codes: 0 done (``status``: nothing to do), 1 something to do (``status``), 2 usage or topology file,
3 a keyspace was refused, 4 a cluster could not be reached.
"""

from __future__ import annotations

import argparse
import asyncio
import enum
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from shards.contract import StoreError
from shards.settings import CassandraSettings, SettingsError, TopologyFile, load
from shards.stores.cassandra import schema
from shards.stores.cassandra.driver_session import DriverSession


class ExitCode(enum.IntEnum):
    """How the command ends."""

    DONE = 0
    TO_DO = 1
    USAGE = 2
    REFUSED = 3
    UNAVAILABLE = 4


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command; prints what is there and what is done, errors on stderr."""
    parser = argparse.ArgumentParser(prog="python -m shards.schema", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("apply", "status"), help="apply: make it so; status: only look")
    parser.add_argument("--topology-file", type=Path, required=True, help="the TOML file that names the clusters")
    parser.add_argument("--shard", type=int, help="only this shard (and not where the topology is kept)")
    parser.add_argument("--dry-run", action="store_true", help="apply: print what would be done, and do nothing")
    options = parser.parse_args(arguments)
    try:
        file = load(options.topology_file, os.environ)
    except SettingsError as error:
        return _failed(ExitCode.USAGE, error)
    if options.shard is not None and options.shard not in file.shards:
        return _failed(ExitCode.USAGE, f"{options.topology_file} has no shard {options.shard} in a cluster")
    does_apply = options.action == "apply" and not options.dry_run
    code = asyncio.run(_all(_places(file, options.shard), does_apply=does_apply))
    return ExitCode.DONE if options.dry_run and code is ExitCode.TO_DO else code


async def _all(places: Iterator[tuple[str, CassandraSettings]], *, does_apply: bool) -> ExitCode:
    """Goes through all keyspaces, whatever one of them says; returns the worst."""
    return max([await _one(name, settings, does_apply=does_apply) for name, settings in places], default=ExitCode.DONE)


async def _one(name: str, settings: CassandraSettings, *, does_apply: bool) -> ExitCode:
    known = schema.migrations()
    where = f"{name}: keyspace {settings.keyspace} at {', '.join(settings.contact_points)}"
    try:
        session = await DriverSession.open(settings)
        try:
            plan = schema.plan(await schema.look(session, settings, known), settings, known)
            lines = plan.lines(settings)
            if lines and does_apply:
                await schema.apply(session, settings, plan)
        finally:
            await session.close()
    except schema.SchemaRefused as error:
        return _failed(ExitCode.REFUSED, f"{name}: {error}")
    except StoreError as error:
        return _failed(ExitCode.UNAVAILABLE, f"{name}: {error}")
    if not lines:
        print(f"{where}: version {len(known)}, nothing to do")  # noqa: T201  the output of the command
        return ExitCode.DONE
    for line in lines:
        print(f"{where}: {'did' if does_apply else 'to do'}: {line}")  # noqa: T201  the output of the command
    return ExitCode.DONE if does_apply else ExitCode.TO_DO


def _places(file: TopologyFile, only: int | None) -> Iterator[tuple[str, CassandraSettings]]:
    for number, settings in file.shards.items():
        if only is None or only == number:
            yield f"shard {number}", settings
    if only is None and file.topology is not None and file.topology not in file.shards.values():
        yield "topology", file.topology
    if only is None and file.next is not None and file.next not in file.shards.values():
        yield "next topology", file.next


def _failed(code: ExitCode, problem: object) -> ExitCode:
    print(f"schema: {problem}", file=sys.stderr)  # noqa: T201  the output of the command
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
