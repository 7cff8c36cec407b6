"""The manual of rebalancing shows what its commands print."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from shards.assembly import StorageSettings, open_fleet
from shards.stores.embedded import prepare
from shards.topology import Topology
from shards.topology_store import TopologyStore

ROOT = Path(__file__).resolve().parents[2]
MANUAL = (ROOT / "docs" / "rebalancing.md").read_text(encoding="utf-8")


def pattern(line: str) -> str:
    """The pattern of a line that is shown: blanks are elastic."""
    return r"\s+".join(re.escape(word) for word in line.split())


async def make(data_dir: Path) -> None:
    """Makes an empty data directory of three shards."""
    os.close(prepare(data_dir, 3))
    fleet = await open_fleet(StorageSettings(data_dir=data_dir))
    await TopologyStore(fleet.home).create(Topology.initial(3))
    await fleet.close()


def test_the_console_blocks_do_what_they_show(tmp_path: Path) -> None:
    """Every command of the manual's console blocks prints what stands under it, on a new directory."""
    asyncio.run(make(tmp_path / "data"))
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "CREST_DATA_DIR": str(tmp_path / "data"),
    }
    blocks = re.findall(r"```console\n\$ (.*?)\n(.*?)```", MANUAL, re.DOTALL)
    assert len(blocks) == 4
    for command, shown in blocks:
        done = subprocess.run(
            ["bash", "-c", command], env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        printed = done.stdout + done.stderr
        for line in shown.splitlines():
            assert re.search(pattern(line), printed), f"{command}\n{printed}"
