"""The commands beside serving: backup, restore and export, while a server writes and after."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from server.processes import ExitCode
from tests.support.addresses import loopback
from tests.support.crest import Crest, create_request, orders
from tests.support.server_process import ROOT

HOST = loopback(23)
PORT = 20400


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    command = [sys.executable, "-m", "server", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)


async def test_backup_of_a_serving_server_is_restored(tmp_path: Path) -> None:
    """What was acknowledged before a backup is in it, and a server on the restored data answers it byte for byte."""
    data, copy, restored = tmp_path / "data", tmp_path / "copy", tmp_path / "restored"
    requests = [create_request(f"customer-{number}") for number in range(20)]
    with Crest(HOST, PORT, data) as server:
        server.wait_serving()
        async with server.channel() as channel:
            made = [(await orders(channel).CreateOrder(request, timeout=10)).order for request in requests]
        backup = run("backup", str(copy), "--data-dir", str(data))
        assert backup.returncode == ExitCode.STOPPED, backup.stderr
        assert f"20 orders of {data} are in {copy}" in backup.stderr
    restore = run("--data-dir", str(restored), "restore", str(copy))
    assert restore.returncode == ExitCode.STOPPED, restore.stderr
    with Crest(HOST, PORT, restored) as server:
        server.wait_serving()
        async with server.channel() as channel:
            for request, order in zip(requests, made, strict=True):
                again = await orders(channel).CreateOrder(request, timeout=10)
                assert again.replayed
                assert again.order == order
        exported = run("export", "-", "--data-dir", str(restored))
    assert exported.returncode == ExitCode.STOPPED, exported.stderr
    lines = [json.loads(line) for line in exported.stdout.splitlines()]
    assert {line["order_id"] for line in lines} == {order.order_id for order in made}
    assert all(line["state"] == "PENDING" and line["total_minor"] == 1990 for line in lines)


async def test_export_names_an_order_that_cannot_be_read(tmp_path: Path) -> None:
    """An export that meets a damaged order ends with one line that names it, and leaves no file that looks complete."""
    data, file = tmp_path / "data", tmp_path / "orders.jsonl"
    with Crest(HOST, PORT, data, "--shards", "1") as server:
        server.wait_serving()
        async with server.channel() as channel:
            order_id = (await orders(channel).CreateOrder(create_request(), timeout=10)).order.order_id
    with closing(apsw.Connection(str(data / "shard-0.db"))) as shard:
        shard.execute("UPDATE orders SET body = x'7f'")
    done = run("export", str(file), "--data-dir", str(data))
    assert done.returncode == ExitCode.STORE_REFUSED
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: what is stored of order {order_id} ")
    assert not file.exists()


@pytest.mark.parametrize("command", ["backup", "restore", "export"])
def test_missing_data_is_one_line(tmp_path: Path, command: str) -> None:
    """A command on data or a backup that is not there ends with one line and the exit code for it."""
    place = str(tmp_path / "there")
    done = run(command, place, "--data-dir", str(tmp_path / "nowhere"))
    assert done.returncode == ExitCode.STORE_REFUSED
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert not Path(place).exists()


def test_mistake_in_the_topology_file_is_a_mistake_in_settings(tmp_path: Path) -> None:
    """A server whose topology file says what cannot be ends with one line that names it, and the code of settings."""
    file = tmp_path / "topology.toml"
    file.write_text("[[shards]]\nid = 0\n", encoding="utf-8")
    done = run("--store", "cassandra", "--topology-file", str(file), "--data-dir", str(tmp_path / "data"))
    assert done.returncode == ExitCode.USAGE
    assert done.stderr == f"error: {file}: shards[0].contact_points: missing\n"
