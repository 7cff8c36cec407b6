"""The course of a benchmark: its parts one after the other, each in a process of its own, on one cluster.

What a part found is kept at once, so a run that was broken off is taken up where it stood (``--resume``), and a part
that fails, hangs or is killed loses its own rows and says so.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from bench.bed import Bed, BedError, opened
from bench.installed import ROOT
from bench.parts import Context, Outcome, Part

HOST: Final = "127.0.0.26"
PORT: Final = 22_000
PORTS_OF_A_PART: Final = 200

MODULES: Final = (
    "bench.rows.client",
    "bench.rows.batch",
    "bench.rows.store_path",
    "bench.rows.reads",
    "bench.rows.policies",
    "bench.rows.blog",
    "bench.rows.unary",
    "bench.overload",
    "bench.rebalance",
    "bench.rows.embedded",
    "bench.balancing",
    "bench.rows.replicas",
)
"""Each has its part as ``PART``. Those on the shared cluster come first: it ends before the others start."""

LARGE: Final = ("bench.rows.large",)
"""Too long for every run: ``make bench-large``."""

_KILL_AFTER_S: Final = 20.0


class Kept(msgspec.Struct):
    """What became of one part."""

    name: str
    title: str
    took_s: float
    outcome: Outcome
    failure: str = ""
    """Why there are no figures; empty when there are."""


class Run(NamedTuple):
    """Where a run keeps what it found, and how thorough it is."""

    folder: Path
    is_quick: bool
    seed: int

    def file(self, part: Part) -> Path:
        """Of one part's result."""
        return self.folder / f"{part.name}.json"

    @property
    def cluster(self) -> Path:
        """Folder of the shared cluster."""
        return self.folder / "cluster"


def parts(modules: Iterable[str]) -> list[Part]:
    """Returns the parts of these modules, in their order."""
    found: list[Part] = [importlib.import_module(module).PART for module in modules]
    assert len({part.name for part in found}) == len(found), "a name is given to one part"
    return found


def named(name: str) -> Part:
    """Returns the part of this name, importing no more than it must. Raises ``KeyError``."""
    for module in (*MODULES, *LARGE):
        part: Part = importlib.import_module(module).PART
        if part.name == name:
            return part
    raise KeyError(name)


def run_all(run: Run, chosen: Sequence[Part], tell: Callable[[str], None]) -> list[Kept]:
    """Runs what has no result in the folder yet, and returns every result."""
    run.folder.mkdir(parents=True, exist_ok=True)
    waiting = [part for part in chosen if not run.file(part).exists()]
    on_bed = [part for part in waiting if part.needs_bed]
    if on_bed:
        try:
            tell("starting the cluster: three Cassandra shards and a Redis Cluster")
            with opened(run.cluster, tell):
                for part in on_bed:
                    _run_apart(run, part, tell)
        except BedError as error:
            for part in on_bed:
                if not run.file(part).exists():
                    _keep(run, part, Kept(part.name, part.title, 0.0, Outcome(), str(error)))
    for part in waiting:
        if not part.needs_bed:
            _run_apart(run, part, tell)
    return [kept(run, part) for part in chosen]


def kept(run: Run, part: Part) -> Kept:
    """Returns what was kept of a part."""
    return msgspec.json.decode(run.file(part).read_bytes(), type=Kept)


def run_here(run: Run, part: Part, tell: Callable[[str], None]) -> Outcome:
    """Measures one part in this process. Raises whatever it raises."""
    bed = Bed(run.cluster) if part.needs_bed else None
    # beside the results, not in the system's temporary folder, which may be no disk at all
    with tempfile.TemporaryDirectory(dir=run.folder, prefix=f"{part.name}-") as scratch:
        chance = random.Random(f"{run.seed} {part.name}")
        return part.run(Context(Path(scratch), HOST, PORT, run.is_quick, chance, tell, bed))


def _run_apart(run: Run, part: Part, tell: Callable[[str], None]) -> None:
    """Measures one part in a process of its own, which is ended after twice its budget; keeps what came of it."""
    tell(f"--- {part.title} ({part.name}), up to {part.budget_s:.0f} s")
    began = time.monotonic()
    command = [sys.executable, "-m", "bench", "part", part.name, f"--folder={run.folder}", f"--seed={run.seed}"]
    if run.is_quick:
        command.append("--quick")
    last = ""
    # a session of its own: what is left of it can be ended with it
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        timers = [
            threading.Timer(2 * part.budget_s, process.terminate),
            threading.Timer(2 * part.budget_s + _KILL_AFTER_S, _kill_session, [process]),
        ]
        try:
            for timer in timers:
                timer.start()
            for line in process.stdout:
                last = line.strip() or last
                tell(line.rstrip())
            code = process.wait()
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_AFTER_S)
            raise
        finally:
            for timer in timers:
                timer.cancel()
            _kill_session(process)
    if run.file(part).exists():
        return
    took_s = time.monotonic() - began
    why = f"not done after {took_s:.0f} s" if took_s >= 2 * part.budget_s else f"ended with code {code}: {last}"
    _keep(run, part, Kept(part.name, part.title, took_s, Outcome(), why))
    tell(f"{part.name} FAILED: {why}")


def _kill_session(process: subprocess.Popen[str]) -> None:
    """Ends what is left of the part's session; nothing is, after a part that ended as it should."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _keep(run: Run, part: Part, found: Kept) -> None:
    draft = run.file(part).with_suffix(".part")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    draft.replace(run.file(part))


def measure_and_keep(run: Run, part: Part, tell: Callable[[str], None]) -> None:
    """What the process of one part does."""
    began = time.monotonic()
    outcome = run_here(run, part, tell)
    _keep(run, part, Kept(part.name, part.title, time.monotonic() - began, outcome))
