"""An observer of shards that remembers what it was told."""

from collections import Counter

from shards.contract import Observer


class Notes(Observer):
    """Keeps every report, for a test to look at."""

    def __init__(self) -> None:
        self.store_calls: list[tuple[int, str, str]] = []
        self.batches: list[int] = []
        self.queued: list[int] = []
        self.cache_events: Counter[str] = Counter()

    def store_call(self, shard: int, operation: str, seconds: float, error: str) -> None:
        assert seconds >= 0
        self.store_calls.append((shard, operation, error))

    def batch_committed(self, shard: int, rows: int) -> None:
        self.batches.append(rows)

    def queue_rows(self, shard: int, rows: int) -> None:
        self.queued.append(rows)

    def cache_event(self, event: str, count: int) -> None:
        self.cache_events[event] += count
