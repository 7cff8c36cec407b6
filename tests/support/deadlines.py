"""Waiting for what offers no event to wait for: asked again and again, until a deadline."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

_INTERVAL_S: Final = 0.02

_T = TypeVar("_T")


def eventually(probe: Callable[[], _T | None], what: str, timeout_s: float = 120.0) -> _T:
    """Returns the first answer of ``probe`` that is neither None nor False; fails, naming ``what``, after a timeout."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = probe()
        if answer is not None and answer is not False:
            return answer
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(_INTERVAL_S)  # sleep: the one place that polls
