"""A wrong history of one order, cut down to what a person can read and that is as wrong."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

from tests.support.history.operation import UNANSWERED, WRITES, Operation, Outcome

TRIES_MAX: Final = 400
"""Tries to leave something out."""

Wrong = Callable[[Sequence[Operation]], bool]
"""Tells whether a history is still wrong."""


def shrunk(own: Sequence[Operation], wrong: Wrong) -> Sequence[Operation]:
    """Returns a shorter history that is as wrong as ``own``, which is one order's in the order of invocation.

    What is left out is what came after the first thing that was wrong, and then what the rest can be explained without:
    leaving out the write that made a version would make a right history wrong.
    """
    ends = sorted(operation.returned for operation in own if operation.returned is not None)
    # what began a right history is right, so a moment divides those that are from those that are not
    first = bisect_left(ends, True, key=lambda moment: wrong(_until(own, moment)))
    kept = list(_until(own, ends[first])) if first < len(ends) else list(own)
    tries = 0
    for chunk in (max(1, len(kept) // 4), max(1, len(kept) // 16), 1):
        at = len(kept)
        while at > 0 and tries < TRIES_MAX:
            at -= chunk
            cut = [operation for operation in kept[max(at, 0) : at + chunk] if _is_idle(operation, kept)]
            shorter = [operation for operation in kept if not any(operation is other for other in cut)]
            tries += 1
            if cut and wrong(shorter):
                kept = shorter
    return kept


def _until(own: Sequence[Operation], moment: float) -> Sequence[Operation]:
    """Returns what had been asked at a moment, with only the answers that had been given."""
    asked = []
    for operation in own:
        if operation.invoked > moment:
            continue
        if operation.returned is None or operation.returned <= moment:
            asked.append(operation)
        elif operation.kind in WRITES:
            doubtful = copy.copy(operation)
            doubtful.result, doubtful.returned = UNANSWERED, None
            asked.append(doubtful)
    return asked


def _is_idle(operation: Operation, among: Sequence[Operation]) -> bool:
    """Whether the rest could be explained without the operation if it could be with it."""
    told = operation.result
    if operation.kind not in WRITES or told.outcome in (Outcome.REFUSED, Outcome.FAILED):
        return True
    if told.outcome is Outcome.OK and not told.replayed:
        return False
    # a replay, or one without an answer: another call may be the one that wrote what it might have written
    made = {other.result.version for other in among if _says_made(other)}
    shown = {other.result.version for other in among if other.result.outcome is Outcome.OK}
    if told.outcome is Outcome.UNKNOWN and max(shown, default=0) <= len(made):
        return True
    at = next(position for position, other in enumerate(among) if other is operation)
    return any(
        other.request == operation.request
        and (_says_made(other) or (position < at and other.result.outcome is Outcome.UNKNOWN))
        for position, other in enumerate(among)
    )


def _says_made(operation: Operation) -> bool:
    told = operation.result
    return operation.kind in WRITES and told.outcome is Outcome.OK and not told.replayed
