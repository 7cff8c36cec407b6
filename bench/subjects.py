"""The servers under load: Crest as operators run it, and its peers, each started from here and ended here."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

import grpc
import psutil

from bench.bed import Bed
from bench.installed import ROOT
from bench.peers import building, placed
from protos.orders.v1 import orders_pb2

READY_TIMEOUT_S: Final = 90.0
STOP_TIMEOUT_S: Final = 60.0
BACKUP_TIMEOUT_S: Final = 300.0
_LOG_LINES: Final = 15

CORES: Final = max(2, len(os.sched_getaffinity(0)))
"""Processes where there is one a core: of the peers in Python that keep orders, and of Crest where callers balance."""

WORKERS: Final = CORES // 2
"""Of Crest and of the empty peers: half of the cores, since database and generator have the other half. With a worker
on each core an order costs more: half are handed over to the worker that commits their lane (docs/adr/0033)."""

GO_CONNECTIONS: Final = 4
"""To each node, of the peers in Go: see docs/performance.md for what was tried."""


class SubjectError(Exception):
    """A server did not start or did not answer; the text ends with the last lines of its log."""


class Subject:
    """A server of one or more processes. A context manager: leaving it ends every process, by its id.

    ``endpoints`` are the ``host:port`` of each worker's own port.
    """

    def __init__(self, name: str, commands: Sequence[Sequence[str]], endpoints: Sequence[str], log: Path) -> None:
        self.name = name
        self.endpoints = tuple(endpoints)
        self._commands = commands
        self._log = log
        self._processes: list[psutil.Popen] = []

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            for command in self._commands:
                self._processes.append(
                    psutil.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def answer(self, request: orders_pb2.CreateOrderRequest) -> bytes:
        """Waits until every endpoint serves and returns the bytes of the last one's answer. Raises ``SubjectError``."""
        give_up = time.monotonic() + READY_TIMEOUT_S
        raw = b""
        for endpoint in self.endpoints:
            while True:
                try:
                    raw = _create(endpoint, request.SerializeToString(), timeout_s=1.0)
                    break
                except grpc.RpcError as error:
                    self._check_alive()
                    if time.monotonic() > give_up:
                        raise SubjectError(self._told(f"{endpoint} does not answer: {error}")) from error
        return raw

    def cpu_s(self) -> float:
        """Returns the processor seconds of all its processes so far, those that have ended included."""
        total = 0.0
        for process in self.processes():
            try:
                spent = process.cpu_times()
            except psutil.NoSuchProcess:
                continue  # ended meanwhile: its time has gone to its parent
            total += spent.user + spent.system + spent.children_user + spent.children_system
        return total

    def processes(self) -> list[psutil.Process]:
        """Returns all its processes of this moment."""
        return [process for root in self._processes for process in (root, *_tree(root))]

    def stop(self) -> None:
        """Ends it: TERM to the processes we started, then KILL to whatever of their trees is left. Idempotent."""
        trees = self.processes()
        for root in self._processes:
            if root.poll() is None:
                root.terminate()
        give_up = time.monotonic() + STOP_TIMEOUT_S
        for root in self._processes:
            try:
                root.wait(max(0.1, give_up - time.monotonic()))
            except psutil.TimeoutExpired:
                root.kill()
                root.wait()
        left = psutil.wait_procs(trees, timeout=2)[1]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has left since
                process.kill()
        psutil.wait_procs(left, timeout=STOP_TIMEOUT_S)
        self._processes.clear()

    def _check_alive(self) -> None:
        for process in self._processes:
            if process.poll() is not None:
                raise SubjectError(self._told(f"a process of {self.name} ended with code {process.returncode}"))

    def _told(self, what: str) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join([what, f"the last lines of its log ({self._log.name}):", *lines])


def crest(  # what operators decide
    host: str,
    port: int,
    workers: int,
    transport: str,
    scratch: Path,
    *,
    bed: Bed | None = None,
    name: str = "crest",
    settings: Mapping[str, object] = MappingProxyType({}),
) -> Subject:
    """Returns the real server: supervisor, workers and exporter, as operators run it.

    It keeps orders on a bed's Cassandra and Redis, else in an empty embedded store. ``settings`` are further flags.
    Uses the ports from ``port`` to ``port + workers`` and the one before them for metrics.
    """
    flags: dict[str, object] = {
        "host": host,
        "port": port,
        "metrics-port": port - 1,
        "workers": workers,
        "transport": transport,
        "data-dir": _data_dir(scratch, transport),
        **settings,
    }
    command = [sys.executable, "-m", "server"]
    if bed is not None:
        command.append(f"--config={bed.server_settings}")
    command += [f"--{flag}={value}" for flag, value in flags.items()]
    return Subject(name, [command], _own(host, port, workers), scratch / f"{name}-{port}.log")


def empty(host: str, port: int, workers: int, transport: str, scratch: Path, answer: bytes) -> Subject:
    """Returns the peer that answers these bytes to everything: as many processes, the same arrangement of ports."""
    file = scratch / f"answer-{transport}-{port}.bin"
    file.write_bytes(answer)
    commands = [
        [
            sys.executable,
            "-m",
            "bench.peers.empty",
            f"--host={host}",
            f"--own-port={port + 1 + worker}",
            f"--shared-port={port}",
            f"--transport={transport}",
            f"--answer={file}",
        ]
        for worker in range(workers)
    ]
    return Subject(f"empty {transport}", commands, _own(host, port, workers), scratch / f"empty-{transport}-{port}.log")


def empty_go(host: str, port: int, scratch: Path, answer: bytes) -> Subject:
    """Returns the peer in Go that answers these bytes to everything: one process, which uses all cores."""
    file = scratch / f"answer-go-{port}.bin"
    file.write_bytes(answer)
    command = [str(building.ensure()), "-mode=empty", f"-listen={host}:{port}", f"-answer={file}"]
    return Subject("empty grpc-go", [command], [f"{host}:{port}"], scratch / f"empty-go-{port}.log")


def go(mode: str, host: str, port: int, scratch: Path, bed: Bed) -> Subject:
    """Returns the peer in Go, ``plain`` or ``once``, with its keyspace on the bed's shards. Raises ``InstallError``."""
    keyspace = f"go_{mode}"
    placement = bed.write_placement(keyspace, scratch / f"placement-{keyspace}.json")
    placed.make_keyspaces(placed.read(placement), [keyspace])
    command = [str(building.ensure()), f"-mode={mode}", f"-listen={host}:{port}", f"-placement={placement}"]
    command.append(f"-connections={GO_CONNECTIONS}")
    return Subject(f"go-{mode}", [command], [f"{host}:{port}"], scratch / f"go-{mode}.log")


def naive(host: str, port: int, workers: int, scratch: Path, bed: Bed) -> Subject:
    """Returns the usual peer in Python, in so many processes, with its keyspace on the shards."""
    placement = bed.write_placement("naive", scratch / "placement-naive.json")
    placed.make_keyspaces(placed.read(placement), ["naive"])
    ports = range(port, port + workers)
    commands = [
        [sys.executable, "-m", "bench.peers.naive", f"--host={host}", f"--port={one}", f"--placement={placement}"]
        for one in ports
    ]
    return Subject("naive", commands, [f"{host}:{one}" for one in ports], scratch / "naive.log")


def flask(host: str, port: int, scratch: Path, workers: int, threads: int) -> Subject:
    """Returns the usual answer of a blog post: Flask under gunicorn, so many processes of so many threads each."""
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "bench.peers.flask.app:app",
        f"--bind={host}:{port}",
        "--no-control-socket",
    ]
    command += [f"--workers={workers}", f"--threads={threads}", "--worker-class=gthread", "--backlog=4096"]
    return Subject("flask", [command], [f"{host}:{port}"], scratch / "flask.log")


def wait_until_it_listens(subject: Subject, host: str, port: int) -> None:
    """Waits until a subject without gRPC takes connections. Raises ``SubjectError``."""
    give_up = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError as error:
            if time.monotonic() > give_up:
                raise SubjectError(f"{subject.name} does not listen on {host}:{port}: {error}") from error
            time.sleep(0.1)  # sleep: between two looks at a port that nobody announces
        else:
            return


def stored_orders(transport: str, scratch: Path) -> int:
    """Returns the orders in crest's store, by a checked backup of it. Raises ``SubjectError``."""
    copy = scratch / f"backup-{transport}"
    command = [sys.executable, "-m", "server", "backup", str(copy), f"--data-dir={_data_dir(scratch, transport)}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BACKUP_TIMEOUT_S, check=False)
    if done.returncode:
        raise SubjectError("the backup failed: " + (done.stderr.strip().splitlines() or ["no output"])[-1])
    files = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))["files"]
    return sum(int(file["rows"]) for file in files if file["name"].startswith("shard-"))


def _data_dir(scratch: Path, transport: str) -> Path:
    return scratch / f"data-{transport}"


def _own(host: str, port: int, workers: int) -> list[str]:
    return [f"{host}:{port + 1 + worker}" for worker in range(workers)]


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _create(endpoint: str, request: bytes, timeout_s: float) -> bytes:
    with grpc.insecure_channel(endpoint, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/orders.v1.OrderService/CreateOrder")
        return call(request, timeout=timeout_s, wait_for_ready=True)
