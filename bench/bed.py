"""The cluster that measurements run on: Cassandra shards and a Redis Cluster of their own, by deploy.cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import psutil

from bench.installed import ROOT
from deploy.cluster import Cluster, ClusterError, ClusterSpec
from deploy.cluster.cassandra import DATA_CENTRE
from deploy.cluster.leaflets import SERVER_SETTINGS, TOPOLOGY_FILE
from shards.topology import Topology

FIRST_ADDRESS: Final = "127.0.0.71"
"""Far from those of the tests and of ``make up``."""

_CQL_PORT: Final = 21_042
_STORAGE_PORT: Final = 21_070
_JMX_PORT: Final = 21_199
_REDIS_PORT: Final = 21_401
_SCHEMA_TIMEOUT_S: Final = 120


class BedError(Exception):
    """The cluster could not be made; the text is for a person."""


class Bed:
    """A running cluster in a folder, whoever started it. Raises ``BedError`` where the folder holds none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        cluster = Cluster.recorded(folder)
        if cluster is None:
            raise BedError(f"{folder} holds no cluster")
        self.cluster = cluster

    @property
    def topology_file(self) -> Path:
        """The shards, as the service reads them; keyspace ``crest``."""
        return self.folder / TOPOLOGY_FILE

    @property
    def server_settings(self) -> Path:
        """For ``python -m server --config``: this store, and this Redis Cluster as its cache."""
        return self.folder / SERVER_SETTINGS

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return self.cluster.spec.shards

    def cpu_s(self) -> dict[str, float]:
        """Returns the processor seconds that ``cassandra`` and ``redis`` have spent so far, all nodes together."""
        return {
            "cassandra": sum(_cpu_s(node.process) for node in self.cluster.cassandra),
            "redis": sum(_cpu_s(node.process) for node in self.cluster.redis),
        }

    def placement(self, keyspace: str) -> dict[str, object]:
        """Returns what a peer needs to place orders as we do: the shards' addresses, and the shard of each slot.

        The shards are those of the topology file, the slots those of the first topology of as many shards.
        """
        spec = self.cluster.spec
        return {
            "keyspace": keyspace,
            "data_center": DATA_CENTRE,
            "replication": spec.replicas,
            "shards": [
                {"id": shard, "hosts": list(spec.contact_points(shard)), "port": spec.cql_port}
                for shard in range(spec.shards)
            ],
            "slot_shards": list(Topology.initial(spec.shards).slot_shards),
        }

    def write_placement(self, keyspace: str, path: Path) -> Path:
        """Writes ``placement`` as JSON and returns the path."""
        path.write_text(json.dumps(self.placement(keyspace)), encoding="utf-8")
        return path

    def named(self, keyspace: str, folder: Path) -> Path:
        """Writes a topology file of these shards under another keyspace, makes the keyspaces, and returns the path."""
        text = self.topology_file.read_text(encoding="utf-8")
        file = folder / f"topology-{keyspace}.toml"
        file.write_text(text.replace("[defaults]\n", f'[defaults]\nkeyspace = "{keyspace}"\n', 1), encoding="utf-8")
        apply_schema(file)
        return file


@contextlib.contextmanager
def opened(folder: Path, tell: Callable[[str], None], **changes: object) -> Iterator[Bed]:
    """Starts a cluster in a folder of its own, and ends and removes it. Its nodes die with the calling thread.

    ``changes`` are fields of ``ClusterSpec``; by default three shards of one node, a commit log synced in groups of
    5 ms, and a Redis Cluster. Raises ``BedError``.
    """
    spec = ClusterSpec(
        first_address=FIRST_ADDRESS,
        cql_port=_CQL_PORT,
        storage_port=_STORAGE_PORT,
        jmx_first_port=_JMX_PORT,
        redis_first_port=_REDIS_PORT,
    )
    spec = dataclasses.replace(spec, **changes)  # type: ignore[arg-type]  # callers name fields of ClusterSpec
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with Cluster(spec, folder, dies_with_parent=True, report=tell):
            bed = Bed(folder)
            apply_schema(bed.topology_file)
            yield bed
    except ClusterError as error:
        raise BedError(f"the cluster does not start: {error}") from error


def apply_schema(topology_file: Path) -> None:
    """Makes the keyspaces that a topology file names. Idempotent. Raises ``BedError``."""
    command = [sys.executable, "-m", "shards.schema", "apply", f"--topology-file={topology_file}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_SCHEMA_TIMEOUT_S, check=False)
    if done.returncode:
        last = ([*done.stderr.strip().splitlines(), *done.stdout.strip().splitlines()] or ["no output"])[-1]
        raise BedError(f"the keyspaces could not be made: {last}")


def _cpu_s(process: object) -> float:
    pid = getattr(process, "pid", None)
    if pid is None:
        return 0.0
    try:
        spent = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(spent.user + spent.system)
