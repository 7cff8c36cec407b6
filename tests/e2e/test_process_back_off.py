"""The supervisor waits before it starts a dead child again, the longer the more often it died."""

import sys
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from server.config import Config
from server.processes import ExitCode, Launch
from server.supervisor.slot import BACK_OFF_MIN_S
from tests.support.addresses import loopback
from tests.support.server_process import ServerProcess

CONFIG = Config(host=loopback(30), port=20600, metrics_port=20690, workers=2, log_format="json", boot_failures_max=5)


def test_a_child_that_keeps_dying_is_started_less_and_less_often(tmp_path: Path) -> None:
    """Each start after a death in a row comes no sooner than twice the wait before, at the supervisor itself."""
    (tmp_path / "worker-1").write_text("die at boot")
    environ = Launch(config=CONFIG).environ({"CREST_TEST_BEHAVIOUR": str(tmp_path)})
    with ServerProcess([sys.executable, "-m", "tests.support.trivial_server"], environ) as server:
        assert server.wait_exit() == ExitCode.BOOT_FAILED
        lines = [line for line in server.lines if line.get("child") == "worker-1"]
    waits = [
        (datetime.fromisoformat(start["time"]) - datetime.fromisoformat(end["time"])).total_seconds()
        for end, start in pairwise(lines)
        if (end["event"], start["event"]) == ("a child has ended", "started a child")
    ]
    # a slow machine only waits longer; the tenth off is for clocks that are set meanwhile
    assert [wait >= 0.9 * BACK_OFF_MIN_S * 2**n for n, wait in enumerate(waits)] == [True] * 4
