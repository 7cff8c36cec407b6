"""ghz, the load generator: run against several ports at once, its answers read exactly.

One ghz a port, because gRPC for Go balances over no fixed list of addresses, and connections that the kernel spreads
over one shared port are seldom spread evenly.
"""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from bench import installed
from bench.installed import ROOT

_SETUP_TIMEOUT_S: Final = 60
"""Beyond the time of the load itself, ghz may take so long to read its messages and to write its report."""

_CALL_TIMEOUT: Final = "20s"


_PROTO: Final = "protos/orders/v1/orders.proto"
_IMPORTS: Final = "protos"

TOLD_LESS: Final = {"orders.v1.OrderService/BatchCreateOrders": "bench/config/batches.proto"}
"""Methods of which ghz is told less. It takes apart what it is told of, sent and received: of a batch that is 36-67 us
of processor time an order, as much as the service takes, and 4-6 where orders are bytes to it."""


class GhzError(Exception):
    """ghz failed; the text is one line for a person."""


class Call(NamedTuple):
    """One finished call."""

    ended_s: float
    """Unix seconds."""
    latency_s: float
    code: str
    """Name of the gRPC code: ``OK``, ``Unavailable``..."""


class Shot(NamedTuple):
    """What one ghz a port brought back."""

    calls: tuple[tuple[Call, ...], ...]
    """Per port."""
    cpu_s: float
    """Processor seconds of all of them, reading the messages included."""


class Pace(NamedTuple):
    """How calls are started."""

    callers: int
    """Over all ports. Closed loop: each starts its next call when the one before ended."""
    connections: int
    """Over all ports."""
    duration_s: float
    rate: int | None = None
    """Open loop: so many calls a second over all ports, whether or not the ones before have ended."""


def fire(addresses: Sequence[str], messages: Sequence[Path], method: str, pace: Pace, scratch: Path) -> Shot:
    """Runs one ghz an address at once, each with its own file of messages, and returns every call of each.

    ``method`` is ``package.Service/Method``. Calls under way when the time is over are waited for. Ends each process it
    started. Raises ``GhzError``, and ``InstallError`` when ghz is missing.
    """
    ghz = installed.ensure(installed.GHZ)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    reports = [scratch / f"ghz-{index}.json" for index in range(len(addresses))]
    started: list[subprocess.Popen[str]] = []
    try:
        for address, file, report in zip(addresses, messages, reports, strict=True):
            argv = [str(ghz), *_arguments(pace, len(addresses)), f"--call={method}", *_described(method)]
            argv += [f"--binary-file={file}", f"--output={report}", address]
            started.append(
                subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            )
        give_up = time.monotonic() + pace.duration_s + _SETUP_TIMEOUT_S
        for process in started:
            try:
                _, errors = process.communicate(timeout=max(0.0, give_up - time.monotonic()))
            except subprocess.TimeoutExpired as error:
                raise GhzError(f"ghz did not end {_SETUP_TIMEOUT_S} s after its time") from error
            if process.returncode:
                raise GhzError("ghz failed: " + (errors.strip().splitlines() or [f"exit {process.returncode}"])[-1])
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Shot(tuple(read_report(report.read_bytes()) for report in reports), cpu_s)


def _arguments(pace: Pace, ports: int) -> list[str]:
    arguments = [
        "--insecure",
        f"--concurrency={-(-pace.callers // ports)}",
        f"--connections={-(-pace.connections // ports)}",
        f"--duration={pace.duration_s:g}s",
        "--duration-stop=wait",
        f"--timeout={_CALL_TIMEOUT}",
        "--count-errors",
        "--format=json",
        # the messages are complete, so each call is spared the search for template actions
        "--disable-template-functions",
        "--disable-template-data",
    ]
    if pace.rate is not None:
        arguments += ["--async", f"--rps={-(-pace.rate // ports)}"]
    return arguments


def _described(method: str) -> list[str]:
    proto = TOLD_LESS.get(method)
    if proto is None:
        return [f"--proto={_PROTO}", f"--import-paths={_IMPORTS}"]
    return [f"--proto={proto}"]


class _Detail(msgspec.Struct):
    timestamp: datetime  # when the call ended
    latency: int  # nanoseconds
    status: str = ""


class _Report(msgspec.Struct):
    details: list[_Detail] | None = None


def read_report(text: bytes) -> tuple[Call, ...]:
    """Returns the calls of a ghz report in JSON, in order of their end. Raises ``GhzError``."""
    try:
        report = msgspec.json.decode(text, type=_Report)
    except msgspec.MsgspecError as error:
        raise GhzError(f"the report of ghz cannot be read: {error}") from error
    calls = [Call(d.timestamp.timestamp(), d.latency / 1e9, d.status or "NoStatus") for d in report.details or ()]
    return tuple(sorted(calls))
