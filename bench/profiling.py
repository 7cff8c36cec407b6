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
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
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

_CALLERS: Final = 256
_BATCH_CALLERS: Final = 32

_FRONT: Final = "grpc-native-io"
"""What pygrpc-native calls its thread."""

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
    threads_us: Mapping[str, float] = MappingProxyType({})
    """Processor time of an order, of both workers, by who spent it."""


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


def record(seconds: float, transport: str, host: str, port: int, scratch: Path, *, orders_per_call: int = 1) -> Profile:
    """Returns the samples of one of two workers under closed-loop load. Raises ``ProfileError`` and ``GhzError``."""
    kind = load.CREATE if orders_per_call == 1 else load.batch_of(orders_per_call)
    pace = ghz.Pace(_CALLERS if orders_per_call == 1 else _BATCH_CALLERS, 16, seconds + 2 * SETTLE_S)
    py_spy = shutil.which("py-spy") or shutil.which(str(Path(sys.executable).with_name("py-spy")))
    if py_spy is None:
        raise ProfileError("py-spy is missing: it is one of the development dependencies (make test installs them)")
    with subjects.crest(host, port, 2, transport, scratch) as crest, ThreadPoolExecutor(1) as pool:
        crest.answer(load.create_request(random.Random(0)))
        files = [scratch / f"messages-{index}.bin" for index in range(len(crest.endpoints))]
        for file in files:
            count = int(_RATE_MAX * pace.duration_s / len(files) / orders_per_call)
            load.write_messages(file, count, random.Random(), kind)
        workers = [child for child in crest.processes() if "server.worker" in child.cmdline()]
        before = threads_s(workers)
        loading = pool.submit(ghz.fire, crest.endpoints, files, kind.method, pace, scratch)
        samples = _sample(py_spy, workers[0], seconds, scratch / "samples.txt")
        orders = max(1, orders_per_call * sum(call.code == "OK" for calls in loading.result().calls for call in calls))
        spent = threads_s(workers)
    spent.subtract(before)
    found = read_samples(samples.read_text(encoding="utf-8").splitlines())
    return found._replace(threads_us={who: spent[who] / orders * 1e6 for who in spent})


def threads_s(workers: Iterable[psutil.Process]) -> Counter[str]:
    """Returns the processor seconds of workers so far, by what their threads do."""
    spent: Counter[str] = Counter()
    for worker in workers:
        for task in Path(f"/proc/{worker.pid}/task").iterdir():
            try:
                name = (task / "comm").read_text(encoding="ascii").strip()
                taken_s = int((task / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
            except FileNotFoundError:  # it has ended meanwhile
                continue
            who = "event loop" if int(task.name) == worker.pid else "HTTP/2" if name == _FRONT else "other threads"
            spent[who] += taken_s  # type: ignore[assignment]  # a Counter of seconds
    return spent


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
    """Prints who spends the processor's time, and the modules and the lines that hold the lock longest."""
    threads = Table(title="processor time of an order, both workers")
    threads.add_column("us", justify="right")
    threads.add_column("threads")
    for who, us in sorted(profile.threads_us.items()):
        threads.add_row(f"{us:.1f}", who)
    console.print(threads)
    for title, counts in (("modules", profile.modules), ("lines", profile.places)):
        table = Table(title=f"{title}, of {profile.samples:,} samples with the interpreter's lock held")
        table.add_column("share", justify="right")
        table.add_column("innermost code of ours")
        for place, count in counts.most_common(rows_max):
            table.add_row(f"{count / max(1, profile.samples):.1%}", place)
        console.print(table)
