"""An observer of shards that remembers what it was told."""

from collections import Counter

from shards.contract import Observer


class Notes(Observer):
    """Keeps every report, for a test to look at."""

    def __init__(self) -> None:
        self.store_calls: list[tuple[int, str, str]] = []
        self.batches: list[tuple[int, int]] = []
        self.queued: list[tuple[int, int]] = []
        self.cache_calls: list[str] = []
        self.cache_events: Counter[str] = Counter()

    def store_call(self, shard: int, operation: str, seconds: float, error: str) -> None:
        """Keeps shard, operation and error."""
        assert seconds >= 0
        self.store_calls.append((shard, operation, error))

    def batch_committed(self, shard: int, rows: int) -> None:
        """Keeps shard and rows."""
        self.batches.append((shard, rows))

    def queue_rows(self, shard: int, rows: int) -> None:
        """Keeps shard and rows."""
        self.queued.append((shard, rows))

    def cache_call(self, operation: str, seconds: float) -> None:
        """Keeps the operation."""
        assert seconds >= 0
        self.cache_calls.append(operation)

    def cache_event(self, event: str, count: int) -> None:
        """Counts."""
        self.cache_events[event] += count
