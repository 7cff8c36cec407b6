"""Prints how a mutant of the protocol breaks its promise, or what a scope holds: ``python -m tests.model [WORDS]``.

WORDS are part of the name of a mutant or of a scope; without any, all mutants are shown.
"""

from __future__ import annotations

import sys

from tests.model.explore import explore
from tests.model.scopes import LARGE, MUTANTS, SMALL


def main(words: str) -> None:
    """Explores whatever has these words in its name."""
    for mutant, scope in MUTANTS.items():
        if words in mutant:
            print(f"MUTANT: {mutant}\n{explore(scope, (mutant,))}\n", flush=True)
    for scope in (*SMALL, *LARGE) if words else ():
        if words in scope.name:
            print(f"SCOPE: {scope.name}\n{explore(scope, states_max=5_000_000)}\n", flush=True)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
