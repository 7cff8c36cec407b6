"""The servers under load: Crest itself and the peer that does nothing, in equal processes on equal ports."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import grpc
import psutil

from bench.ghz import ROOT
from protos.orders.v1 import orders_pb2

READY_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 20.0
BACKUP_TIMEOUT_S: Final = 300.0
_LOG_LINES: Final = 15


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
        for process in psutil.wait_procs(trees, timeout=2)[1]:
            process.kill()
        self._processes.clear()

    def _check_alive(self) -> None:
        for process in self._processes:
            if process.poll() is not None:
                raise SubjectError(self._told(f"a process of {self.name} ended with code {process.returncode}"))

    def _told(self, what: str) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join([what, f"the last lines of its log ({self._log.name}):", *lines])


def crest(host: str, port: int, workers: int, transport: str, scratch: Path) -> Subject:
    """Returns the real server on an empty embedded store: supervisor, workers and exporter, as operators run it.

    Uses the ports from ``port`` to ``port + workers`` and the one before them for metrics.
    """
    settings: Mapping[str, object] = {
        "host": host,
        "port": port,
        "metrics-port": port - 1,
        "workers": workers,
        "transport": transport,
        "data-dir": _data_dir(scratch, transport),
    }
    command = [sys.executable, "-m", "server", *(f"--{name}={value}" for name, value in settings.items())]
    return Subject("crest", [command], _own(host, port, workers), scratch / f"crest-{transport}.log")


def empty(host: str, port: int, workers: int, transport: str, scratch: Path, answer: bytes) -> Subject:
    """Returns the peer that answers these bytes to everything: as many processes, the same arrangement of ports."""
    file = scratch / f"answer-{transport}.bin"
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
    return Subject("empty", commands, _own(host, port, workers), scratch / f"empty-{transport}.log")


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
