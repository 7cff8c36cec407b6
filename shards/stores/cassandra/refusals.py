"""What the refusal of a conditional batch says about each of its rows. Pure.

A refused batch wrote nothing. When any of its statements has ``IF NOT EXISTS``, the rows come back in full: every row
that is there and that a condition names, whether it was the reason or not; otherwise with their versions only. A sealed
partition without any of the rows comes back as one row of which just ``sealed`` is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from shards.contract import DEFERRED, SEALED, Outcome, Row, Verdict
from shards.keys import Key
from shards.stores.cassandra.session import Refusal


def judge(rows: Sequence[Row], refusal: Refusal) -> list[Outcome | None]:
    """Returns the outcome of each row of a refused batch; None: it clashes, with a row that is to be read."""
    is_sealed = any(line.get("sealed") for line in refusal)
    is_full = any("body" in line for line in refusal)
    versions = {line["order_id"]: line["version"] for line in refusal if line.get("order_id") is not None}
    present = {line["order_id"]: row_of(line) for line in refusal if is_full and line.get("order_id") is not None}
    outcomes: list[Outcome | None] = []
    for row in rows:
        order_id = row.key.order_id
        if row.version == 1:
            if order_id in present:
                outcomes.append(Outcome(Verdict.CLASH, present[order_id]))
            else:
                outcomes.append(SEALED if is_sealed else DEFERRED)
        elif versions.get(order_id) == row.version - 1:
            outcomes.append(DEFERRED)
        elif is_full:
            outcomes.append(Outcome(Verdict.CLASH, present.get(order_id)))
        else:
            outcomes.append(None)
    return outcomes


def row_of(line: dict[str, object] | object) -> Row:
    """Returns the row that a line of columns by name holds."""
    columns = cast("dict[str, object]", line)
    key = Key(
        cast("int", columns["slot"]),
        cast("int", columns["gen"]),
        cast("int", columns["tag"]),
        cast("bytes", columns["order_id"]),
    )
    return Row(key, cast("str", columns["customer"]), cast("bytes", columns["marks"]), cast("bytes", columns["body"]))
