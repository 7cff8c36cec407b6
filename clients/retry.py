"""When a failed call is tried again: pure decisions, the waiting is done by who asks.

Backoff with full jitter as in M. Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015). The budget is
a token bucket as in gRPC's retry throttling (gRFC A6) and Finagle's RetryBudget: when most calls fail, retries stop
adding load, whatever the policy of a single call allows.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from clients.errors import DeadlineExceeded, OrderError, Together, Unavailable


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient one logical call is. ``RetryPolicy(attempts_max=1)`` never retries."""

    attempts_max: int = 10
    """Attempts of one logical call, the first included."""
    backoff_s: float = 0.05
    """The first wait is between 0 and this; the range doubles with each further attempt."""
    backoff_max_s: float = 2.0
    """The range grows no further than this."""
    attempt_timeout_s: float = 4.0
    """An attempt without an answer is given up after this, so that a hung worker costs part of the deadline only."""

    def __post_init__(self) -> None:
        if self.attempts_max < 1 or self.backoff_s < 0 or self.backoff_max_s < 0 or self.attempt_timeout_s <= 0:
            raise ValueError(
                f"{self}: attempts_max is at least 1, times are not negative, attempt_timeout_s is positive"
            )

    def delay_s(self, attempts: int, hint_s: float | None, uniform: Callable[[float, float], float]) -> float:
        """Returns the wait after ``attempts`` failed ones: never below the server's hint, and jittered above it."""
        doublings = min(attempts - 1, 32)  # 2**32 * 1 ms is past any backoff_max_s
        return (hint_s or 0.0) + uniform(0.0, min(self.backoff_max_s, self.backoff_s * 2**doublings))


class RetryBudget:
    """A token bucket that all calls of a client share: a retry takes 1, a success gives ``per_success`` back.

    Time gives ``per_second`` back, so that a client of few calls, or one that has only failures, may still retry now
    and then. Tokens stay within 0 and ``tokens_max``.
    """

    def __init__(
        self,
        tokens_max: float = 100.0,
        *,
        per_success: float = 0.1,
        per_second: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if tokens_max < 0 or per_success < 0 or per_second < 0:
            raise ValueError("a budget has no negative amounts")
        self.tokens_max = tokens_max
        self._per_success = per_success
        self._per_second = per_second
        self._clock = clock
        self._tokens = tokens_max
        self._filled_at = clock()

    def __repr__(self) -> str:
        return f"<RetryBudget {self.tokens:.0f}/{self.tokens_max:.0f}>"

    @property
    def tokens(self) -> float:
        """How many retries are left at this moment."""
        now = self._clock()
        self._tokens = min(self.tokens_max, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        return self._tokens

    def succeeded(self) -> None:
        """Counts a call that succeeded."""
        self._tokens = min(self.tokens_max, self._tokens + self._per_success)

    def take(self, together: Together | None = None) -> bool:
        """Takes a token for a retry; False when there is none.

        Calls that failed together, in one batch, are sent together again: the first to ask takes the token for all.
        """
        if together is not None and together.granted is not None:
            return together.granted
        granted = self.tokens >= 1.0
        if granted:
            self._tokens -= 1.0
        if together is not None:
            together.granted = granted
        return granted


class Attempts:
    """The attempts of one logical call: counts them, and says after each failure how long to wait for the next."""

    def __init__(
        self,
        policy: RetryPolicy,
        budget: RetryBudget,
        deadline: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._budget = budget
        self._clock = clock
        self._uniform = uniform
        self.deadline = deadline
        """Absolute, in seconds of the clock; infinity when there is none."""
        self.failed = 0
        self._unavailable: Unavailable | None = None

    @property
    def remaining_s(self) -> float:
        """What is left until the deadline; not negative."""
        return max(0.0, self.deadline - self._clock())

    @property
    def timeout_s(self) -> float:
        """How long the next attempt may take."""
        return min(self._policy.attempt_timeout_s, self.remaining_s)

    def next_delay_s(self, error: OrderError) -> float | None:
        """Notes a failed attempt; returns the wait before the next one, or None when this error is the answer.

        Then a note on the error says why, for a retryable one.
        """
        self.failed += 1
        error.attempts = self.failed
        if isinstance(error, Unavailable):
            self._unavailable = error
        if not error.retryable:
            return None
        if self.failed >= self._policy.attempts_max:
            error.add_note(f"gave up after {self.failed} attempts, as many as the retry policy allows")
            return None
        delay_s = self._policy.delay_s(self.failed, error.retry_delay_s, self._uniform)
        if delay_s >= self.remaining_s:
            error.add_note(f"gave up after {self.failed} attempts: the deadline leaves no time for another")
            return None
        if not self._budget.take(error.together):
            error.add_note(f"gave up after {self.failed} attempts: the retry budget is empty, most calls fail")
            return None
        return delay_s

    def telling(self, error: OrderError) -> OrderError:
        """Returns the error that tells most about the end: why nobody could be reached, rather than that time is up."""
        told = self._unavailable
        if told is None or not isinstance(error, DeadlineExceeded):
            return error
        told.attempts = self.failed
        told.request_id = told.request_id or error.request_id
        told.in_doubt |= error.maybe_done
        told.add_note(f"gave up after {self.failed} attempts: no answer before the deadline")
        return told

    def progressed(self, *, counted: bool = False) -> None:
        """Counts a success, unless it is ``counted``; a stream that goes on starts to count its failures anew."""
        self.failed = 0
        self._unavailable = None
        if not counted:
            self._budget.succeeded()
