"""Calls offered at a pace of their own by ``bench/openloop``, which Go builds, and what came of them."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench import load

SOURCES: Final = Path(__file__).resolve().parent / "openloop"
FOLDER: Final = Path(__file__).resolve().parent.parent / ".tools" / "bin"
METHOD: Final = "/orders.v1.OrderService/CreateOrder"

NICE: Final = -10
"""Of the generator, where that is allowed. It takes a part of one core whatever its rank, and waits for its turn behind
all threads of server and database if it has none: what it does not read in time would count as answered late."""

_BUILD_TIMEOUT_S: Final = 300
_MARGIN_S: Final = 30.0
_CUSTOMER_DIGITS: Final = 5


class OfferingError(Exception):
    """The generator cannot be built, or failed; the text is for a person."""


class Phase(msgspec.Struct, frozen=True):
    """A part of the time."""

    name: str
    seconds: float
    times: float = 1.0
    """What the rate of the flows that are not steady is multiplied by."""


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of caller, with connections of its own. Every call creates an order under a request id of its own."""

    name: str
    targets: Sequence[str]
    """``host:port`` of each worker."""
    priority: str
    rate: float = 0.0
    """Calls a second over all targets."""
    is_steady: bool = False
    """The rate is the same in every phase."""
    closed: int = 0
    """When not 0: so many calls under way at any time, whatever the rate."""
    connections: int = 4
    """To each target."""
    deadline_s: float = 1.0
    throttle: float = 0.0
    """When not 0: these callers hold calls back as ``clients/throttle.py`` does, with this K."""


class Slice(msgspec.Struct, frozen=True):
    """One second of a phase, by intended start."""

    offered: int
    ok: int


class Tally(msgspec.Struct, frozen=True):
    """What came of the calls of one flow that were meant to start in one phase."""

    phase: str
    times: float
    seconds: float
    offered: int
    outcomes: Mapping[str, int]
    """By code and reason; ``UNSENT`` and ``TIMEOUT`` are those that the deadline ended with the caller."""
    ok_ms: Mapping[str, float]
    """Quantiles of the latency of those answered OK in time, from their intended start: p50, p90, p99, p999, max."""
    refused_ms: Mapping[str, float]
    """The same of those answered otherwise."""
    behind_ms: Mapping[str, float]
    """The same of how long after its intended start the generator came to a call: what it was late itself, which counts
    as latency of the call, too."""
    slices: Sequence[Slice]

    @property
    def ok(self) -> int:
        """Calls answered OK before their deadline."""
        return self.outcomes.get("OK", 0)


class Offered(msgspec.Struct, frozen=True):
    """What came of one run."""

    cpu_s: float
    """Processor seconds of the generator."""
    flows: Mapping[str, Sequence[Tally]]
    """For each flow a tally of each phase, in order."""

    @property
    def calls(self) -> int:
        """Calls offered in all."""
        return sum(tally.offered for tallies in self.flows.values() for tally in tallies)


def ensure() -> Path:
    """Returns the path of the generator, built now unless it is there. Raises ``OfferingError``."""
    files = sorted(file for file in SOURCES.iterdir() if file.suffix in {".go", ".mod", ".sum"})
    digest = hashlib.blake2b(digest_size=6)
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    binary = FOLDER / f"openloop-{digest.hexdigest()}"
    if binary.exists():
        return binary
    go = shutil.which("go")
    if go is None:
        raise OfferingError("Go is missing, which builds bench/openloop (Debian: apt-get install golang)")
    print("building bench/openloop", flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent, prefix="openloop-") as folder:
        draft = Path(folder) / "openloop"
        command = [go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o", str(draft), "."]
        done = subprocess.run(
            command, cwd=SOURCES, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False
        )
        if done.returncode:
            raise OfferingError(f"go build of bench/openloop failed: {done.stderr.strip()}")
        draft.replace(binary)
    return binary


def offer(flows: Sequence[Flow], phases: Sequence[Phase], chance: random.Random) -> Offered:
    """Offers all flows, phase after phase, and returns when every call has ended. Raises ``OfferingError``."""
    request = load.create_request(chance)
    message = request.SerializeToString()
    fields = {
        "path": METHOD,
        "message": message,
        "request_id_at": message.index(request.request_id.encode()),
        # the message has customer-NNNNN once
        "customer_at": message.index(request.customer_id.encode()) + len(request.customer_id) - _CUSTOMER_DIGITS,
        "customers": load.CUSTOMERS,
    }
    plan = {
        "seed": chance.getrandbits(32),
        "phases": phases,
        "flows": [
            fields
            | {
                "name": flow.name,
                "targets": flow.targets,
                "connections": flow.connections,
                "metadata": [("x-caller-id", flow.name), ("crest-priority", flow.priority)],
                "rate": flow.rate,
                "steady": flow.is_steady,
                "closed": flow.closed,
                "deadline_ms": round(flow.deadline_s * 1000),
                "throttle": flow.throttle,
            }
            for flow in flows
        ],
    }
    limit_s = sum(phase.seconds for phase in phases) + max(flow.deadline_s for flow in flows) + _MARGIN_S
    try:
        done = subprocess.run(
            ["nice", "-n", str(NICE), str(ensure())],
            input=msgspec.json.encode(plan),
            capture_output=True,
            timeout=limit_s,
            check=False,
            env=os.environ | {"GOGC": "400"},  # it keeps little, so it may look for garbage seldom
        )
    except subprocess.TimeoutExpired as error:
        raise OfferingError(f"bench/openloop did not end within {limit_s:.0f} s") from error
    if done.returncode:
        raise OfferingError(f"bench/openloop failed: {done.stderr.decode(errors='replace').strip()}")
    return msgspec.json.decode(done.stdout, type=Offered)
