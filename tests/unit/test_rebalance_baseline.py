"""A limit that callers are above before anything moves is refused with the figure, not waited under for ever."""

from typing import cast

import pytest

from shards.contract import Copies
from shards.facts import Facts
from shards.leases import Lease, Telemetry
from shards.leases.states import SCOPE
from shards.rebalance.baseline import refuse_hopeless, usual_p99_ms
from shards.rebalance.fleet import Fleet
from shards.rebalance.record import IllegalStep, Options
from shards.topology import Topology
from tests.simulation.virtual_time import run
from tests.support.memory_facts import MemoryFacts

TOPOLOGY = Topology.initial(2)


class TwoShards(Fleet):
    """Two shards, served by workers whose p99 (ms) is given, one after another look."""

    def __init__(self, *p99s_ms: tuple[float, ...]) -> None:
        self._of_shard = [MemoryFacts(), MemoryFacts()]
        self._told = list(p99s_ms)
        self._looks = 0
        self._of_shard[0].between = self._tell

    async def _tell(self, operation: str, is_done: bool) -> None:
        if operation == "list" and not is_done and self._told:
            self._looks += 1
            for number, p99_ms in enumerate(self._told.pop(0)):
                lease = Lease(
                    worker=f"worker-{number}", states_revision=1, epoch=1, duration_s=5, telemetry=Telemetry(p99_ms)
                )
                self._of_shard[number % 2].kept[SCOPE, lease.fact_name] = lease.to_fact(self._looks)

    @property
    def home(self) -> Facts:
        """Not asked."""
        raise AssertionError

    async def part(self, shard: int) -> tuple[Facts, Copies]:
        """The facts of a shard; nobody asks for its orders."""
        return self._of_shard[shard], cast("Copies", None)

    async def prepare(self, shard: int) -> None:
        """Not asked."""

    async def close(self) -> None:
        """Nothing to do."""


def test_the_usual_p99_is_that_of_the_worst_worker_in_the_middle_look() -> None:
    """One bad second is not what callers usually feel, and one calm worker is not all of them."""
    assert run(usual_p99_ms(TwoShards((10, 80), (900, 20), (70, 90)), TOPOLOGY)) == 90
    assert run(usual_p99_ms(TwoShards(), TOPOLOGY)) is None


def test_a_hopeless_limit_is_refused_with_one_that_is_not() -> None:
    """Who asks for less than callers feel anyway is told the figure and what to ask for; others are not held up."""
    with pytest.raises(IllegalStep) as refused:
        run(refuse_hopeless(TwoShards((100,), (100,), (100,)), TOPOLOGY, Options(keep_p99_ms=50)))
    assert "callers' p99 is 100 ms" in str(refused.value)
    assert refused.value.legal == ("--keep-p99-ms 125", "--may-wait")
    run(refuse_hopeless(TwoShards((100,), (100,), (100,)), TOPOLOGY, Options(keep_p99_ms=125)))
    run(refuse_hopeless(TwoShards(), TOPOLOGY, Options(keep_p99_ms=1)))
    run(refuse_hopeless(TwoShards((100,)), TOPOLOGY, Options()))
