"""docs/rebalancing-kills.md, made of docs/rebalancing-kills.json: what every disturbance came to. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from tests.torture.rebalance.cases import GROWTH
from tests.torture.rebalance.trial import Result

_HEAD: Final = """\
# What was killed, and what came of it

Made by `python -m tests.torture.rebalance run --keep docs/rebalancing-kills.json` and
`python -m tests.torture.rebalance page`. Each line is a trial of its own: callers create, change, read, list and repeat
orders through two workers while the slots of most of them move from one shard to another. Once, at the named point, a
process is killed with SIGKILL (or stopped); then another mover resumes. In the end every request that was in doubt is
sent again, every order is read, every customer listed, every moved order compared with the copy that was left behind,
and the history of all answers is judged: *lost* are acknowledged orders that are missing or differ, *doubled* requests
with two orders, *stale* answers that no order of events explains.

*Cut short* are calls that ended without an answer, or past their deadline. One call in twenty has a deadline of 20 ms,
so there are always some; where the mover dies with slots paused, calls to them wait until the next mover has taken
over, three seconds later.
"""

_GROWN: Final = """
Where nothing was killed a quarter of all slots moved to a fourth shard, and back to the three, under calls that had
ten seconds each; none of them may be cut short.
"""


def page(results: Iterable[Result]) -> str:
    """Returns the page of these results."""
    rows = list(results)
    text = [_HEAD + (_GROWN if any(row.case in GROWTH for row in rows) else "")]
    for store in dict.fromkeys(row.store for row in rows):
        text.append(f"\n## {store}\n")
        text.append("| what | operations | cut short | slots | verified | seconds | lost | doubled | stale |")
        text.append("|---|---|---|---|---|---|---|---|---|")
        text += [
            f"| {row.case} | {row.operations:,} | {row.refused_or_late:,} | {row.slots} | {row.verified:,} "
            f"| {row.resume_s:g} | {row.lost} | {row.doubled} | {row.stale} |"
            for row in rows
            if row.store == store
        ]
    return "\n".join(text) + "\n"


def read(raw: bytes) -> list[Result]:
    """Returns the results that ``write`` wrote."""
    return msgspec.json.decode(raw, type=list[Result])


def write(results: Iterable[Result]) -> bytes:
    """Returns results as bytes: JSON, one a line."""
    return b"[\n" + b",\n".join(msgspec.json.encode(result) for result in results) + b"\n]\n"
