"""Load over HTTP by vegeta, for the one peer that has no gRPC."""

from __future__ import annotations

import json
import resource
import subprocess
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import installed

_TIMEOUT_S: Final = 60
_CALL_TIMEOUT: Final = "30s"


class HttpError(Exception):
    """vegeta failed; the text is one line for a person."""


class Shot(NamedTuple):
    """What one run brought back."""

    answered: int
    """Requests answered with 200."""
    took_s: float
    """From the first request to the last answer."""
    p50_ms: float
    p99_ms: float
    errors: dict[str, int]
    """Requests not answered with 200, by code (0: none at all)."""
    cpu_s: float


def post(url: str, body: bytes, callers: int, seconds: float, scratch: Path) -> Shot:
    """Has so many callers post the same body over and over, each waiting for its answer. Raises ``HttpError``."""
    (scratch / "body.json").write_bytes(body)
    target = {"method": "POST", "url": url, "header": {"Content-Type": ["application/json"]}}
    (scratch / "target.json").write_text(json.dumps(target) + "\n", encoding="utf-8")  # a line a target
    vegeta = str(installed.ensure(installed.VEGETA))
    results = scratch / "vegeta.bin"
    attack = [vegeta, "attack", "-format=json", f"-targets={scratch / 'target.json'}", f"-body={scratch / 'body.json'}"]
    attack += ["-rate=0", f"-workers={callers}", f"-max-workers={callers}", f"-duration={seconds:g}s"]
    attack += [f"-timeout={_CALL_TIMEOUT}", f"-connections={callers}", f"-output={results}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run(attack, seconds + _TIMEOUT_S)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return read_report(_run([vegeta, "report", "-type=json", str(results)], _TIMEOUT_S), cpu_s)


def read_report(text: bytes, cpu_s: float) -> Shot:
    """Returns the figures of vegeta's report in JSON. Raises ``HttpError``."""
    try:
        found: dict[str, Any] = json.loads(text)
        codes = {str(code): int(count) for code, count in found["status_codes"].items()}
        took_s = (found["duration"] + found["wait"]) / 1e9
        p50_ms, p99_ms = found["latencies"]["50th"] / 1e6, found["latencies"]["99th"] / 1e6
    except (ValueError, KeyError, TypeError) as error:
        raise HttpError(f"the report of vegeta cannot be read: {error}") from error
    return Shot(codes.pop("200", 0), took_s, p50_ms, p99_ms, codes, cpu_s)


def _run(command: list[str], timeout_s: float) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise HttpError(f"vegeta did not end within {timeout_s:.0f} s") from error
    if done.returncode:
        raise HttpError("vegeta failed: " + (done.stderr.decode().strip().splitlines() or ["no output"])[-1])
    return done.stdout
