"""The torture finds every fault planted for it, and none where there is none."""

import math

import pytest

from tests.support.addresses import loopback
from tests.torture.ledger import Ledger
from tests.torture.replay import Replay
from tests.torture.standin import Fault, standins
from tests.torture.trials import Trials

HOST = loopback(26)
SEED = 26


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
async def test_planted_fault_is_found(fault: Fault) -> None:
    """A service with a fault is convicted by the replay and its audit, an honest one is not."""
    ledger = Ledger()
    async with standins(HOST, fault, SEED) as endpoints, Replay(endpoints, SEED, ledger) as replay:
        await replay.run(Trials(SEED, 600), until=math.inf)
        await replay.audit()
    assert ledger.orders == 600
    assert bool(ledger.findings_count) == (fault is not Fault.NONE), ledger.findings
