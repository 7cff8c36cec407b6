"""The worlds that are explored, and the mutants: one rule of the protocol left out of each."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tests.model.state import Scope

SMALL: Final = (
    Scope("a create and a read", "cr"),
    Scope("a create and a read, two workers", "cr", workers=2, has_words=False),
    Scope("renewals that are delayed and lost", "r", has_split_renewals=True, chain="c"),
    Scope("a mover that dies", "c", crashes=1),
    Scope("an operator who cancels", "c", cancels=1),
    Scope("there and back", "c", moves=((0, 1), (1, 0))),
    Scope("a bucket that is sealed", "cx"),
    Scope("copies that are damaged", "c", damages=1),
)
"""Explored by every run of the tests."""

LARGE: Final = (
    Scope("words of two workers", "cr", workers=2),
    Scope("a mover that is thought dead at once", "c", crashes=1, has_deposed=True, first_step="fence topology"),
    Scope("a mover that is thought dead", "c", crashes=1, has_deposed=True, has_words=False),
    Scope("creates through delayed renewals", "cr", has_split_renewals=True),
    Scope("there and back twice", "c", moves=((0, 1), (1, 0), (0, 1))),
)
"""Explored by `make torture`."""

_ONE: Final = SMALL[0]
_DIES_PAUSED: Final = Scope("a mover that dies while the slot is paused", "c", crashes=1, first_step="pause")
# in these words break nothing, and make the way to what breaks longer
_DEPOSED_AT_ONCE: Final = replace(LARGE[1], has_words=False)
_DEPOSED: Final = replace(LARGE[2], has_words=False)

MUTANTS: Final[dict[str, Scope]] = {
    "no lease is looked at before the answer": _ONE,
    "operations begun before are not marked": _ONE,
    "reads are not held back": _ONE,
    "the pause is not waited for": _ONE,
    "the rest is not copied": _ONE,
    "epoch_min is ignored": _ONE,
    "epoch_min is not raised": _ONE,
    "epoch_min only at a new lease, and no wait": _ONE,
    "renewals do not look at the document": _ONE,
    "lease counted from before the write": _ONE,
    "a frozen worker's clock stops": _ONE,
    "a worker gives its word before it has acted": _ONE,
    "a word is taken for a lease": _ONE,
    "workers count from after their renewal": Scope("renewals in parts", "c", has_split_renewals=True),
    "a late renewal opens what has been paused since": Scope("renewals in parts", "c", has_split_renewals=True),
    "digests are not compared": Scope("damage", "c", damages=1),
    "copies are placed unconditionally": Scope("a late copy", "t", chain="c", damages=1),
    "seals are not repeated": Scope("a seal", "cx"),
    "a gen is used again after a cancel": Scope("a cancel", "c", cancels=1),
    "a gen is used again on the way back": Scope("back", "c", moves=((0, 1), (1, 0))),
    "the topology is not fenced": _DEPOSED,
    "flip is unconditional": _DEPOSED,
    "the record is not read before a flip": _DEPOSED,
    "the record is read before the topology": _DEPOSED,
    "a chain of epochs begins without a look at the record": Scope(
        "a mover that is thought dead before it has begun",
        "",
        chain="c",
        crashes=1,
        has_deposed=True,
        has_words=False,
        first_step="fence topology",
    ),
    "the attempt in the document is not looked at": _DEPOSED_AT_ONCE,
    "burnt copies are dropped before the fences": _DEPOSED,
    "no lease is looked at before a slot is opened": _DIES_PAUSED,
    "a word opens under later states, too": _DIES_PAUSED,
    "it is settled at once whether a slot was opened": _DIES_PAUSED,
    "what is found paused is opened at the source": _DIES_PAUSED,
    "a successor flips to a gen of its own": _DIES_PAUSED,
    "burnt copies are dropped before it is settled": _DIES_PAUSED,
    "what a word has opened is undone": Scope("a cancel after the word", "c", cancels=1),
    "a pause that is found is trusted": Scope("a rest and a death", "c", crashes=1, cancels=1),
}
"""Each with a scope in which it breaks a promise."""
