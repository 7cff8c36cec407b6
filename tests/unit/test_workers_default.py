import os

import pytest

from server.config import WORKERS_MAX, load


@pytest.mark.parametrize(("cores", "workers"), [(1, 2), (2, 2), (7, 7), (WORKERS_MAX + 1, WORKERS_MAX)])
def test_a_worker_a_core_and_at_least_two(cores: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a setting there is a worker for each core that the process may use, and never fewer than two."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)), raising=False)
    assert load({}, {}, None).workers == workers
