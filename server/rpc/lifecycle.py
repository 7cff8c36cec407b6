"""The life cycle of an order as a page: ``python -m server.rpc.lifecycle`` prints ``docs/lifecycle.md``."""

from __future__ import annotations

import sys
from typing import Final

from server.domain.states import FINAL, TRANSITIONS, State, Verb, diagram

_PAGE: Final = """\
# The life of an order

This page is printed by `python -m server.rpc.lifecycle` from the table that the service decides by; a test keeps it so.

```mermaid
{diagram}```

What each method does to an order in each state; `-` is refused with FAILED_PRECONDITION (`TRANSITION_NOT_ALLOWED`),
whose metadata names the present `state` and the `allowed_methods`:

{table}

Every transition makes the next version, by one, and stands in the order's `transitions` with its time and, for
CancelOrder and RefundOrder, its reason. A transition is decided against the current version, never a cached one. With
`expected_version` it is refused with ABORTED (`VERSION_MISMATCH`) unless the order is at that version, which is looked
at before the state. The same `request_id` again answers the order as that transition left it, however far it has moved
since.
"""


def page() -> str:
    """Returns ``docs/lifecycle.md``."""
    head = ["| state |", *(f" {verb.value} |" for verb in Verb)]
    rows = ["".join(head), "|" + "---|" * (len(Verb) + 1)]
    for state in State:
        cells = [TRANSITIONS[verb][1].name if state in TRANSITIONS[verb][0] else "-" for verb in Verb]
        name = f"{state.name} (final)" if state in FINAL else state.name
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return _PAGE.format(diagram=diagram(), table="\n".join(rows))


if __name__ == "__main__":
    sys.stdout.write(page())
