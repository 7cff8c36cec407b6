"""An observer of shards that remembers what it was told."""

from collections import Counter

from shards.contract import Observer


class Notes(Observer):
    """Keeps every report, for a test to look at."""

    def __init__(self) -> None:
        self.store_calls: list[tuple[int, str, str]] = []
        self.batches: list[tuple[int, int]] = []
        self.queued: list[tuple[int, int]] = []
        self.handed = self.taken = 0
        self.taken_back: Counter[str] = Counter()
        self.cache_calls: list[str] = []
        self.cache_events: Counter[str] = Counter()
        self.waiters_most = 0
        self.waits_s: list[float] = []
        self.reruns: Counter[str] = Counter()
        self.paused: dict[int, int] = {}
        self.lease_ages: dict[int, float] = {}
        self.leases_lost: Counter[int] = Counter()

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

    def rows_handed(self, count: int) -> None:
        """Counts."""
        self.handed += count

    def rows_taken(self, count: int) -> None:
        """Counts."""
        self.taken += count

    def rows_taken_back(self, reason: str, count: int) -> None:
        """Counts."""
        self.taken_back[reason] += count

    def cache_call(self, operation: str, seconds: float) -> None:
        """Keeps the operation."""
        assert seconds >= 0
        self.cache_calls.append(operation)

    def cache_event(self, event: str, count: int) -> None:
        """Counts."""
        self.cache_events[event] += count

    def slot_waiters(self, count: int) -> None:
        """Keeps the most."""
        self.waiters_most = max(self.waiters_most, count)

    def slot_waited(self, seconds: float) -> None:
        """Keeps the time."""
        self.waits_s.append(seconds)

    def reran(self, operation: str) -> None:
        """Counts."""
        self.reruns[operation] += 1

    def slot_paused(self, seconds: float) -> None:
        """Forgets."""

    def slots_paused(self, shard: int, count: int) -> None:
        """Keeps the latest."""
        self.paused[shard] = count

    def lease_age(self, shard: int, seconds: float) -> None:
        """Keeps the latest."""
        self.lease_ages[shard] = seconds

    def lease_lost(self, shard: int) -> None:
        """Counts."""
        self.leases_lost[shard] += 1
