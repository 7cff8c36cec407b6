"""What is kept of a run: a folder of its own, one JSON of everything, one line of history."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.campaign import Kept, Run
from bench.rounds import work_s

SUMMARY: Final = "results.json"
_RUN: Final = "run.json"
_PREFIX: Final = "run-"


def begun(results: Path, now: datetime, *, is_quick: bool, seed: int) -> Run:
    """Returns a new run in a folder of its own, named by the time, and notes what it is."""
    folder = results / f"{_PREFIX}{now:%Y%m%d-%H%M%S}"
    folder.mkdir()
    (folder / _RUN).write_text(json.dumps({"is_quick": is_quick, "seed": seed}), encoding="utf-8")
    return Run(folder, is_quick, seed)


def taken_up(results: Path) -> Run | None:
    """Returns the last run that was begun, None when there is none."""
    notes = sorted(results.glob(f"{_PREFIX}*/{_RUN}"))
    if not notes:
        return None
    said = json.loads(notes[-1].read_text(encoding="utf-8"))
    return Run(notes[-1].parent, said["is_quick"], said["seed"])


def keep(results: Sequence[Kept], facts: Mapping[str, object], run: Run) -> Path:
    """Writes everything as JSON, whole or not at all, and returns its path."""
    content = {"facts": facts, "settings": {"is_quick": run.is_quick, "seed": run.seed}, "parts": results}
    path = run.folder / SUMMARY
    draft = path.with_suffix(".part")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1))
    draft.replace(path)
    return path


def remember(results: Sequence[Kept], facts: Mapping[str, object], history: Path) -> None:
    """Adds a line to the history."""
    with history.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line(results, facts)) + "\n")


def read(path: Path) -> tuple[list[Kept], dict[str, Any]]:
    """Returns what ``keep`` wrote: results and facts."""
    content = msgspec.json.decode(path.read_bytes())
    return msgspec.convert(content["parts"], list[Kept]), content["facts"]


def line(results: Sequence[Kept], facts: Mapping[str, object]) -> dict[str, object]:
    """Returns the line of history: the medians of every row, and what failed."""
    return {
        **{name: facts[name] for name in ("time", "commit", "cpu", "cores", "fsync_us")},
        "rows": [
            {
                "part": result.name,
                "work": row.work,
                "rate": round(row.ours.rate.median, 1),
                "against": row.theirs.name if row.theirs else "",
                "their_rate": round(row.theirs.rate.median, 1) if row.theirs else None,
                "ratio": round(row.ratio.median, 3) if row.ratio else None,
                "target": row.target,
                "reached": row.reached,
                "cpu_ms": round(work_s(row.ours.cpu_s_per_1000), 4),
                "cpu_ratio": round(row.cpu_ratio, 3) if row.cpu_ratio else None,
            }
            for result in results
            for row in result.outcome.rows
        ],
        "failed": [result.name for result in results if result.failure],
    }
