"""What was made of a value last, for values that are asked about over and over.

A row that the worker's own cache answers is the same object each time, and one that comes from afar is equal to the one
before. So what was made of it still holds, and nothing has to be expired or told of changes: a later version is another
row. To compare two equal ones costs a twentieth of making an answer anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

S = TypeVar("S")
M = TypeVar("M")

ENTRIES_MAX: Final = 2_048
"""Values remembered; then all are forgotten, and those that are asked about come back."""

ENTRY_BYTES_MAX: Final = 4_096
"""Of values whose stored or serialized form is larger nothing is remembered: each holds several times that."""


class Latest(Generic[S, M]):
    """Remembers what ``make`` made of each key's value, until one is given that does not equal it.

    For immutable values, of which equal ones are made into equal things.
    """

    def __init__(self, make: Callable[[S], M], is_small: Callable[[S, M], bool]) -> None:
        """``is_small`` tells what may be remembered."""
        self._make = make
        self._is_small = is_small
        self._made: dict[bytes, tuple[S, M]] = {}

    def __repr__(self) -> str:
        return f"Latest({len(self._made)}/{ENTRIES_MAX})"

    def of(self, key: bytes, value: S) -> M:
        """Returns what is made of a value. What ``make`` raises, it raises."""
        known = self._made.get(key)
        if known is not None and (known[0] is value or known[0] == value):
            return known[1]
        made = self._make(value)
        if self._is_small(value, made):
            if len(self._made) >= ENTRIES_MAX:
                self._made.clear()
            self._made[key] = value, made
        return made
