"""What a figure depends on beside the code: the machine, its disk, the versions, and what else was running."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

from bench.installed import ROOT

_FSYNCS: Final = 64
_PACKAGES: Final = ("grpcio", "pygrpc-native", "apsw", "uvloop", "protobuf", "msgspec")


def facts(data_dir: Path) -> dict[str, object]:
    """Returns the facts of this moment; ``data_dir`` lies on the disk that orders are written to."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average_1m": round(os.getloadavg()[0], 2),
        "fsync_us": round(fsync_us(data_dir)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def busy_s() -> float:
    """Returns the processor seconds that all cores together have spent on anything since the machine started."""
    spent = psutil.cpu_times()
    return float(sum(spent) - spent.idle - getattr(spent, "iowait", 0.0) - getattr(spent, "guest", 0.0))


def commit() -> str:
    """Returns the short hash of the commit measured, with ``-dirty`` when files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def fsync_us(directory: Path) -> float:
    """Returns the median time in microseconds to append a page to a file there and have it on the disk."""
    times_s = []
    page = os.urandom(4096)
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(_FSYNCS):
            started = time.perf_counter()
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
            times_s.append(time.perf_counter() - started)
    return statistics.median(times_s) * 1e6


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
