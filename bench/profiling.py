"""Where a worker's time goes: py-spy looks at one from outside while ghz loads all, and its samples are added up.

Only samples that hold the interpreter's lock count, so what waits, for the disk or for the lock, is left out: what
remains is the time that a worker cannot give to another call.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from bench import ghz, load, subjects

SAMPLES_PER_S: Final = 500
SETTLE_S: Final = 2.0
"""Load before and after the samples are taken, so that no start and no end is among them."""

_RATE_MAX: Final = 20_000
"""Orders a second that the messages allow for."""

_OURS: Final = ("server/", "shards/", "protos/")


class ProfileError(Exception):
    """py-spy is missing, or may not look at the worker; the text is for a person."""


class Profile(NamedTuple):
    """Samples by where they were taken."""

    samples: int
    places: Counter[str]
    """By the innermost line of our own code: ``function (file:line)``; what it called into counts as its own."""
    modules: Counter[str]
    """The same by file."""


def read_samples(lines: Iterable[str]) -> Profile:
    """Adds up samples in py-spy's raw format: frames from the outermost on, joined by ``;``, then a count."""
    places: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    samples = 0
    for line in lines:
        stack, _, text = line.rpartition(" ")
        if not stack:
            continue
        count = int(text)
        samples += count
        frames = stack.split(";")
        place = next((frame for frame in reversed(frames) if _file_of(frame).startswith(_OURS)), "outside of our code")
        places[place] += count
        modules[_file_of(place).partition(":")[0] or place] += count
    return Profile(samples, places, modules)


def _file_of(frame: str) -> str:
    """Returns ``file:line`` of a frame ``function (file:line)``, or "" of one without."""
    return frame.rpartition("(")[2].removesuffix(")") if frame.endswith(")") else ""


def record(seconds: float, transport: str, host: str, port: int, scratch: Path) -> Profile:
    """Returns the samples of one of two workers under closed-loop load. Raises ``ProfileError`` and ``GhzError``."""
    py_spy = shutil.which("py-spy") or shutil.which(str(Path(sys.executable).with_name("py-spy")))
    if py_spy is None:
        raise ProfileError("py-spy is missing: it is one of the development dependencies (make test installs them)")
    with subjects.crest(host, port, 2, transport, scratch) as crest, ThreadPoolExecutor(1) as pool:
        crest.answer(load.create_request(random.Random(0)))
        files = [scratch / f"messages-{index}.bin" for index in range(len(crest.endpoints))]
        load_s = seconds + 2 * SETTLE_S
        for file in files:
            load.write_messages(file, int(_RATE_MAX * load_s / len(files)), random.Random())
        loading = pool.submit(ghz.fire, crest.endpoints, files, load.CREATE.method, ghz.Pace(256, 16, load_s), scratch)
        worker = next(child for child in crest.processes() if "server.worker" in child.cmdline())
        samples = _sample(py_spy, worker, seconds, scratch / "samples.txt")
        loading.result()
    return read_samples(samples.read_text(encoding="utf-8").splitlines())


def _sample(py_spy: str, worker: psutil.Process, seconds: float, file: Path) -> Path:
    argv = [py_spy, "record", f"--pid={worker.pid}", f"--output={file}", "--format=raw", "--gil", "--nonblocking"]
    argv += [f"--rate={SAMPLES_PER_S}", f"--duration={max(1, round(seconds))}"]
    psutil.wait_procs([worker], timeout=SETTLE_S)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode or not file.exists():
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ProfileError(f"py-spy could not look at the worker (it needs CAP_SYS_PTRACE, or root): {last}")
    return file


def show(profile: Profile, rows_max: int, console: Console) -> None:
    """Prints the modules and the lines that hold the lock longest."""
    for title, counts in (("modules", profile.modules), ("lines", profile.places)):
        table = Table(title=f"{title}, of {profile.samples:,} samples with the interpreter's lock held")
        table.add_column("share", justify="right")
        table.add_column("innermost code of ours")
        for place, count in counts.most_common(rows_max):
            table.add_row(f"{count / max(1, profile.samples):.1%}", place)
        console.print(table)
