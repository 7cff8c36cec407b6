"""The command line: what it prints for people and for programs, and how it ends."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from clients.cli.exits import ExitCode
from clients.cli.orders import app
from tests.support.scripted_server import Fail, LoseReply, ScriptedServer, unavailable

Run = Callable[..., Any]
CREATE = ["create", "--customer", "zoë", "--currency", "EUR", "--line", "tea:2:19.99", "--attr", "channel=web"]


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """A worker that fails on cue."""
    async with ScriptedServer("127.0.0.25:0") as server:
        yield server


@pytest.fixture
def run(server: ScriptedServer) -> Run:
    """Runs a command against the worker, beside it."""

    async def run(*arguments: str) -> object:
        options = ["--endpoint", server.address, "--timeout", "5", "--caller-id", "cli"]
        return await asyncio.to_thread(lambda: CliRunner().invoke(app, [*arguments, *options]))

    return run


async def test_an_order_goes_through_its_life(run: Run, server: ScriptedServer) -> None:
    """Each command does its step, and prints the order in words."""
    created = await run(*CREATE)
    assert created.exit_code == 0, created.output
    for text in ("zoë", "● PENDING", "version 1", "channel", "web", "tea", "39.98 EUR", "UTC"):
        assert text in created.stdout
    (order,) = server.orders.values()
    for verb, state in (("pay", "PAID"), ("ship", "SHIPPED"), ("deliver", "DELIVERED"), ("refund", "REFUNDED")):
        result = await run(verb, order.order_id, *(["--reason", "broken"] if verb == "refund" else []))
        assert result.exit_code == 0, result.output
        assert f"✓ {order.order_id} is ● {state}" in result.stdout
    assert "● REFUNDED" in (await run("get", order.order_id, "--strong")).stdout
    assert "version 5" in (await run("watch", order.order_id)).stdout
    listed = await run("list", "zoë")
    assert order.order_id in listed.stdout
    assert "1 orders" in listed.stdout
    assert "zoë has no orders that are PAID" in (await run("list", "zoë", "--state", "paid")).stdout
    assert server.caller_ids == {"cli"}


async def test_json_is_one_object_a_line(run: Run, server: ScriptedServer) -> None:
    """With --json every command prints the fields of the wire, and nothing else."""
    created = json.loads((await run(*CREATE, "--json")).stdout)
    assert created["replayed"] is False
    order = created["order"]
    assert order["lines"] == [{"sku": "tea", "quantity": 2, "unit_price_minor": 1999}]
    assert (order["total_minor"], order["state"], order["attributes"]) == (3998, "PENDING", {"channel": "web"})
    assert order["create_time"].endswith("Z")
    await run(*CREATE)
    lines = (await run("list", "zoë", "--json")).stdout.splitlines()
    assert [json.loads(line)["customer_id"] for line in lines] == ["zoë", "zoë"]
    assert json.loads((await run("get", order["order_id"], "--json")).stdout) == order
    cancelled = json.loads((await run("cancel", order["order_id"], "--json", "-r", "changed my mind")).stdout)
    assert cancelled["order"]["state"] == "CANCELLED"
    assert json.loads((await run("topology", "--json")).stdout)["shards"] == [{"id": 0, "weight": 1, "slots": 4096}]
    assert server.orders


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Fail(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"), ExitCode.INVALID),
        (Fail(grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND"), ExitCode.NOT_FOUND),
        (Fail(grpc.StatusCode.ABORTED, "VERSION_MISMATCH"), ExitCode.CONFLICT),
        (Fail(grpc.StatusCode.FAILED_PRECONDITION, "TRANSITION_NOT_ALLOWED"), ExitCode.CONFLICT),
        (Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL"), ExitCode.OVERLOADED),
        (Fail(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_delay_s=60), ExitCode.UNAVAILABLE),
        (Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_delay_s=60), ExitCode.OVERLOADED),
        (Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "DEADLINE_TOO_SHORT", retry_delay_s=60), ExitCode.OVERLOADED),
        (Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_delay_s=60), ExitCode.OVERLOADED),
        (Fail(grpc.StatusCode.DATA_LOSS, "STORE_CORRUPT"), ExitCode.SERVER_FAULT),
    ],
)
async def test_errors_end_with_a_code_a_reason_and_a_next_step(
    run: Run, server: ScriptedServer, failure: Fail, code: ExitCode
) -> None:
    """Each class of errors has its exit code; stderr has the reason and what to do, as text and as JSON."""
    server.script("GetOrder", failure, failure)
    result = await run("get", "x")
    assert result.exit_code == code
    assert not result.stdout
    assert failure.reason in result.stderr
    assert "next" in result.stderr
    result = await run("get", "x", "--json")
    assert result.exit_code == code
    error = json.loads(result.stderr)["error"]
    assert error["reason"] == failure.reason
    assert error["next_step"]


async def test_every_bad_field_is_shown(run: Run, server: ScriptedServer) -> None:
    """A refused order shows each field with what is wrong with it."""
    violations = [("customer_id", "has 0 bytes"), ("lines[0].quantity", "is 0")]
    server.script("CreateOrder", Fail(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", violations=violations))
    result = await run(*CREATE)
    assert result.exit_code == ExitCode.INVALID
    for field, description in violations:
        assert field in result.stderr
        assert description in result.stderr


@pytest.mark.parametrize("said", ["[/x]", "[ops]tea", ":key:"])
async def test_what_is_stored_is_shown_as_it_is(run: Run, server: ScriptedServer, said: str) -> None:
    """Names, labels and messages are no markup, whatever brackets and colons stand in them."""
    result = await run("create", "-c", said, "--currency", "EUR", "-l", f"{said}:1:1", "-a", f"channel={said}")
    assert result.exit_code == 0, result.output
    assert result.stdout.count(said) == 3
    assert f"{said} has no orders" in (await run("list", said, "--state", "paid")).stdout
    for violations in ([], [("customer_id", said)]):
        server.script("GetOrder", Fail(grpc.StatusCode.INVALID_ARGUMENT, said, violations=violations))
        assert said in (await run("get", "x")).stderr
    assert said in (await run("get", said)).stderr
    assert f"--state {said}" in (await run("list", "zoe", "--state", said)).stderr


async def test_a_write_in_doubt_names_its_request_id(run: Run, server: ScriptedServer) -> None:
    """A write that nobody answered can be continued by the id that is printed, and is then a replay."""
    server.script("CreateOrder", *[unavailable()] * 10)
    error = json.loads((await run(*CREATE, "--json")).stderr)["error"]
    assert error["retryable"]
    request_id = error["request_id"]
    assert f"--request-id {request_id}" in error["next_step"]
    server.scripts.clear()
    assert (await run(*CREATE, "--request-id", request_id)).exit_code == 0
    assert json.loads((await run(*CREATE, "--request-id", request_id, "--json")).stdout)["replayed"]
    assert {key[1] for key in server.orders} == {request_id}


async def test_a_write_in_doubt_that_is_refused_at_last_names_its_request_id(run: Run, server: ScriptedServer) -> None:
    """The next step after a doubt is the same id, also when the service was full in the end; without one it is not."""
    full = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_delay_s=60)
    server.script("CreateOrder", LoseReply(), full)
    error = json.loads((await run(*CREATE, "--json")).stderr)["error"]
    ((_, request_id),) = server.orders
    assert error["reason"] == "OVERLOADED"
    assert f"--request-id {request_id}" in error["next_step"]
    server.script("CreateOrder", full)
    error = json.loads((await run(*CREATE, "--json")).stderr)["error"]
    assert "--request-id" not in error["next_step"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "--customer", "zoe", "--currency", "EUR", "--line", "tea"],
        ["create", "--customer", "zoe", "--currency", "EUR", "--line", "tea:x:1"],
        ["create", "--customer", "zoe", "--currency", "EUR", "--line", "tea:1:1.999"],
        ["create", "--customer", "zoe", "--currency", "EUR", "--line", "tea:1:1", "--attr", "x"],
        ["list", "zoe", "--state", "lost"],
        ["get"],
        ["load", "no-such-file.csv"],
    ],
)
async def test_a_wrong_command_line_sends_nothing(run: Run, server: ScriptedServer, arguments: list[str]) -> None:
    """What cannot become a request ends with the usage code and a word about it."""
    result = await run(*arguments)
    assert result.exit_code == ExitCode.USAGE
    assert result.stderr
    assert not server.requests


def test_help_lists_every_exit_code() -> None:
    """``--help`` names every command and every exit code with its meaning."""
    text = " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).stdout.split())
    for code in ExitCode:
        assert f"{code.value} {code.meaning}" in text
    for name in ("create", "get", "list", "pay", "ship", "deliver", "cancel", "refund", "watch", "load"):
        assert f"{name} " in text


async def test_a_load_ends_with_a_summary_and_knows_itself_again(server: ScriptedServer, tmp_path: Path) -> None:
    """The command loads, names rejects by its exit code, and a second time sends nothing."""
    path = tmp_path / "[b]orders.csv"
    path.write_text("customer_id,currency_code,sku,quantity,unit_price\nzoe,EUR,tea,2,1.50\nzoe,EUR,tea,1,x\n")

    async def load(*options: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "clients", "load", str(path), "-e", server.address, *options),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    code, out, err = await load()
    assert code == ExitCode.REJECTS, err
    assert "✓ [b]orders.csv is loaded" in out
    assert "3.00 EUR" in out
    assert str(tmp_path / "[b]orders.rejects.csv") in out
    code, out, err = await load()
    assert code == ExitCode.REJECTS, err
    assert "✓ [b]orders.csv was loaded before" in out
    assert "1 orders, and 1 row rejected" in out
    code, out, _ = await load("--json")
    assert code == ExitCode.REJECTS
    summary = json.loads(out)
    assert (summary["loaded"], summary["loaded_before"], summary["sum_minor"]) == (1, True, {"EUR": 300})
    assert len(server.orders) == 1
    code, _, _ = await load("--anew")
    assert len(server.orders) == 2
    path.write_text(path.read_text() + "zoe,EUR,tea,1,1\n")
    code, _, err = await load()
    assert code == ExitCode.USAGE
    assert "--anew" in err
