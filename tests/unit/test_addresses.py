"""The loopback addresses of a run of the tests: another run's are others."""

import subprocess
import sys

from tests.support.addresses import loopback, take_number
from tests.support.server_process import ROOT

TAKEN = "from tests.support.addresses import take_number; print(take_number())"


def taken_elsewhere() -> int:
    """The number that another process takes, and gives back by its end."""
    command = [sys.executable, "-c", TAKEN]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def test_runs_have_numbers_of_their_own() -> None:
    """A number that one process has is not given to another until it ends, and a run keeps its addresses."""
    mine = take_number()
    assert taken_elsewhere() != mine
    assert loopback(25) == loopback(25) != loopback(26)
    assert loopback(25).startswith("127.0.")
