import signal
import sys
from pathlib import Path

from server.config import Config
from server.processes import Launch
from tests.support.addresses import loopback
from tests.support.deadlines import eventually
from tests.support.server_process import ServerProcess, alive

CONFIG = Config(
    host=loopback(30),
    port=20700,
    metrics_port=20790,
    workers=2,
    log_format="json",
    stall_timeout_s=60,
    boot_timeout_s=60,
)


def test_a_hung_child_dies_with_its_supervisor(tmp_path: Path) -> None:
    """A child that hangs, and so reads nothing from its pipes, is ended by the kernel when the supervisor is killed."""
    (tmp_path / "worker-0").write_text("stall")
    environ = Launch(config=CONFIG).environ({"CREST_TEST_BEHAVIOUR": str(tmp_path)})
    with ServerProcess([sys.executable, "-m", "tests.support.trivial_server"], environ) as server:
        pids = [server.wait_ready(name) for name in ("worker-0", "worker-1", "exporter")]
        server.signal(signal.SIGKILL)
        server.wait_exit()
        for pid in pids:
            eventually(lambda pid=pid: not alive(pid), f"{pid} ends")  # type: ignore[misc]  # bound in the loop
