"""The decisions about retries: delays, budget, attempts."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients import (
    DeadlineExceeded,
    InvalidRequest,
    OrderError,
    Overloaded,
    Reason,
    RetryBudget,
    RetryPolicy,
    Unavailable,
)
from clients.retry import Attempts


def unavailable(hint_s: float | None = None) -> OrderError:
    """A failure that another try may help."""
    return Unavailable("down", code=grpc.StatusCode.UNAVAILABLE, retry_delay_s=hint_s)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now_s


def attempts(policy: RetryPolicy, budget: RetryBudget | None = None, *, seconds: float = 1e9) -> Attempts:
    """Attempts on a clock that stands still, with the longest jitter there is."""
    clock = Clock()
    budget = budget or RetryBudget(1e9, clock=clock)
    return Attempts(policy, budget, clock() + seconds, clock=clock, uniform=lambda _, high: high)


@given(st.integers(1, 100), st.floats(0, 60) | st.none(), st.floats(0, 1))
def test_delay_is_between_the_hint_and_the_capped_range_above_it(
    failed: int, hint_s: float | None, part: float
) -> None:
    """A delay is never below the server's hint and never further above it than the doubled, capped range."""
    policy = RetryPolicy(backoff_s=0.05, backoff_max_s=2.0)
    delay_s = policy.delay_s(failed, hint_s, lambda low, high: low + part * (high - low))
    above_s = delay_s - (hint_s or 0.0)
    assert -1e-9 <= above_s <= min(2.0, 0.05 * 2 ** (failed - 1)) + 1e-9


@given(st.lists(st.sampled_from(["take", "succeed", "second"]), max_size=300))
def test_budget_stays_within_its_bounds(steps: list[str]) -> None:
    """Whatever happens, a budget holds between 0 and its maximum, and refuses a retry only when below one token."""
    clock = Clock()
    budget = RetryBudget(5, per_success=0.5, per_second=1, clock=clock)
    for step in steps:
        before = budget.tokens
        if step == "take":
            assert budget.take() == (before >= 1)
        elif step == "succeed":
            budget.succeeded()
        else:
            clock.now_s += 1
        assert 0 <= budget.tokens <= 5


def test_attempts_end_with_the_policy() -> None:
    """As many attempts as the policy allows are made, and the error says so."""
    trial = attempts(RetryPolicy(attempts_max=3))
    assert trial.next_delay_s(unavailable()) is not None
    assert trial.next_delay_s(unavailable()) is not None
    last = unavailable()
    assert trial.next_delay_s(last) is None
    assert last.attempts == 3
    assert "as many as the retry policy allows" in last.__notes__[0]


def test_attempts_end_with_the_deadline() -> None:
    """A wait that would outlast the deadline is not begun."""
    error = unavailable(hint_s=5)
    assert attempts(RetryPolicy(), seconds=4).next_delay_s(error) is None
    assert "deadline" in error.__notes__[0]


def test_attempts_end_with_the_budget() -> None:
    """When the budget that all calls share is empty, nobody retries."""
    budget = RetryBudget(1, per_second=0)
    assert attempts(RetryPolicy(), budget).next_delay_s(unavailable()) is not None
    error = unavailable()
    assert attempts(RetryPolicy(), budget).next_delay_s(error) is None
    assert "retry budget" in error.__notes__[0]


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (unavailable(), True),
        (Unavailable("stopping", code=grpc.StatusCode.CANCELLED), True),
        (Overloaded("full", code=grpc.StatusCode.RESOURCE_EXHAUSTED, retry_delay_s=0.1), True),
        (Overloaded("too large", code=grpc.StatusCode.RESOURCE_EXHAUSTED), False),
        (InvalidRequest("no", code=grpc.StatusCode.INVALID_ARGUMENT), False),
    ],
)
def test_only_what_may_help_is_retried(error: OrderError, retried: bool) -> None:
    """Unavailable is retried, overload only with a hint, a wrong request never, and a refused retry costs nothing."""
    budget = RetryBudget(10, per_second=0)
    assert (attempts(RetryPolicy(), budget).next_delay_s(error) is not None) == retried
    assert budget.tokens == (9 if retried else 10)


def test_an_attempt_never_outlasts_the_deadline() -> None:
    """An attempt may take the policy's time or what is left, whichever is less."""
    assert attempts(RetryPolicy(attempt_timeout_s=4), seconds=10).timeout_s == 4
    assert attempts(RetryPolicy(attempt_timeout_s=4), seconds=1).timeout_s == 1


@pytest.mark.parametrize("bad", [{"attempts_max": 0}, {"backoff_s": -1}, {"attempt_timeout_s": 0}])
def test_impossible_policies_are_refused(bad: dict[str, int]) -> None:
    """A policy that could never make a call is refused when it is made."""
    with pytest.raises(ValueError, match="at least 1"):
        RetryPolicy(**bad)


def test_the_end_tells_of_a_doubt() -> None:
    """An error that stands for the end is in doubt when the end is, whatever it said itself."""
    late = DeadlineExceeded("time is up", code=grpc.StatusCode.DEADLINE_EXCEEDED)
    trial = attempts(RetryPolicy())
    away = Unavailable("away", code=grpc.StatusCode.UNAVAILABLE, reason=Reason.STORE_UNAVAILABLE)
    trial.next_delay_s(away)
    assert not away.maybe_done
    trial.next_delay_s(late)
    assert trial.telling(late) is away
    assert away.maybe_done


def test_the_end_tells_why_rather_than_when() -> None:
    """When time ran out while nobody could be reached, the error is that nobody could; after a success it is not."""
    late = DeadlineExceeded("time is up", code=grpc.StatusCode.DEADLINE_EXCEEDED)
    trial = attempts(RetryPolicy())
    refused = unavailable()
    trial.next_delay_s(refused)
    trial.next_delay_s(late)
    assert trial.telling(late) is refused
    assert refused.attempts == 2
    trial.progressed()
    assert trial.telling(late) is late
