"""Loopback addresses that no other run of the tests on this machine has.

Ports are fixed, so that they stay out of the ephemeral range; what differs between two runs is the address. A run takes
the first number that is free, by binding a name in the abstract namespace of Unix sockets: it is of the same network
namespace as the addresses, and the kernel frees it however the run ends.
"""

import functools
import os
import socket
from typing import Final

RUNS_MAX: Final = 64
"""Runs at once on one machine."""

_NUMBER: Final = "CREST_TEST_RUN"
"""Environment: the number of the run, for the processes that it starts."""

_taken: Final[list[socket.socket]] = []


def loopback(host: int) -> str:
    """Returns the address of this run that ends in ``host`` (1-254): 127.0.0.``host`` in the first run."""
    return f"127.0.{_run()}.{host}"


def take_number() -> int:
    """Takes the first number that no other process has, until this process ends."""
    for number in range(RUNS_MAX):
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0crest-tests-{number}")
        except OSError:
            name.close()
        else:
            _taken.append(name)
            return number
    raise RuntimeError(f"{RUNS_MAX} runs of the tests are under way")


@functools.cache
def _run() -> int:
    if _NUMBER not in os.environ:
        os.environ[_NUMBER] = str(take_number())
    return int(os.environ[_NUMBER])
