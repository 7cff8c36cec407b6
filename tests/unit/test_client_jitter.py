import math
import time

import grpc

from clients.errors import Unavailable
from clients.retry import Attempts, RetryBudget, RetryPolicy


def test_jitter_is_full() -> None:
    """A wait begins anywhere between the server's hint and the capped range above it, both ends included."""
    policy = RetryPolicy(backoff_s=0.1, backoff_max_s=1.0)
    for attempts, longest_s in ((1, 0.1), (2, 0.2), (4, 0.8), (5, 1.0), (50, 1.0)):
        for hint_s in (None, 0.5):
            least_s = hint_s or 0.0
            assert policy.delay_s(attempts, hint_s, lambda low, _: low) == least_s
            assert math.isclose(policy.delay_s(attempts, hint_s, lambda _, high: high), least_s + longest_s)


def test_callers_that_fail_together_do_not_return_together() -> None:
    """The waits of many calls that failed at one moment are spread over the range."""
    policy = RetryPolicy(backoff_s=1.0, backoff_max_s=1.0)
    error = Unavailable("gone", code=grpc.StatusCode.UNAVAILABLE)
    waits = [Attempts(policy, RetryBudget(), time.monotonic() + 60).next_delay_s(error) or 0.0 for _ in range(100)]
    assert min(waits) < 0.5 < max(waits)
