"""The load of a file against a service that fails on cue: each order once, whoever dies when."""

import asyncio
import csv
import datetime as dt
import errno
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from clients import OrderClient, RetryPolicy
from clients.load import Journal, Loader, LoadStopped, Pace, Table, Totals, rejects_path
from clients.load.journal import Batch
from protos.orders.v1 import orders_pb2
from tests.support.scripted_server import Fail, Items, LoseReply, ScriptedServer, refused_id, unavailable

HEADER = "customer_id,currency_code,sku,quantity,unit_price"
QUICK = RetryPolicy(attempts_max=2, backoff_s=0.001, attempt_timeout_s=20)
LATER = dt.datetime(2031, 5, 6, 7, 8, 9, tzinfo=dt.UTC)
FULL = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_delay_s=0.001)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """A worker that fails on cue."""
    async with ScriptedServer("127.0.0.25:0") as server:
        yield server


def orders_file(tmp_path: Path, count: int) -> Path:
    """A file of so many orders, each of a customer of its own."""
    path = tmp_path / "orders.csv"
    path.write_text("\n".join([HEADER, *(f"c{i},EUR,tea,1,{i}.50" for i in range(count))]) + "\n")
    return path


class Load:
    """One run over a file, from opening its journal to closing it."""

    def __init__(self, server: ScriptedServer, path: Path, **pace: int) -> None:
        self.totals = Totals()
        self._server = server
        self._path = path
        self._pace = Pace(**{"batch_orders_max": 5, "batches_in_flight_max": 2, **pace})
        self._batches = 0
        self._moved = asyncio.Event()

    async def reached(self, batches: int, running: asyncio.Task[bool]) -> None:
        """Waits until so many batches are done, or all."""
        waiting = asyncio.create_task(self._wait(batches))
        await asyncio.wait([waiting, running], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    async def run(self) -> bool:
        """Runs it as the command does."""
        table = Table(self._path)
        survey = table.survey()
        self.totals.orders_in_file = survey.orders
        with Journal.open(self._path, survey.digest) as journal:
            async with OrderClient(self._server.address, policy=QUICK, discover=False) as client:
                loader = Loader(client, table, journal, self.totals, pace=self._pace, progress=self._count)
                return await loader.run()

    async def _wait(self, batches: int) -> None:
        while self._batches < batches:
            self._moved.clear()
            await self._moved.wait()

    def _count(self) -> None:
        self._batches += 1
        self._moved.set()


def customers(server: ScriptedServer) -> Counter[str]:
    """How many orders each customer has."""
    return Counter(customer for customer, _ in server.orders)


def once(count: int) -> Counter[str]:
    """One order for each customer."""
    return Counter({f"c{i}": 1 for i in range(count)})


async def test_a_file_is_loaded_once_through_failures(server: ScriptedServer, tmp_path: Path) -> None:
    """Lost replies, full queues and outages longer than the client's own patience leave each order there once."""
    server.script("BatchCreateOrders", LoseReply(), unavailable(), unavailable(), unavailable(), Items({2: FULL}))
    load = Load(server, orders_file(tmp_path, 23))
    assert await load.run()
    assert customers(server) == once(23)
    assert (load.totals.loaded, load.totals.rejected_rows) == (23, 0)
    assert load.totals.replayed > 0
    assert load.totals.sum_minor == {"EUR": sum(i * 100 + 50 for i in range(23))}
    assert not rejects_path(tmp_path / "orders.csv").exists()


@pytest.mark.parametrize("deaths", range(1, 6))
async def test_a_load_that_dies_goes_on_where_it_was(server: ScriptedServer, tmp_path: Path, deaths: int) -> None:
    """Cut off again and again in the middle of its calls, and started again, a load ends with each order once."""
    path = orders_file(tmp_path, 40)
    for death in range(deaths):
        server.script("BatchCreateOrders", LoseReply())
        load = Load(server, path)
        running = asyncio.create_task(load.run())
        await load.reached(death + 1, running)
        running.cancel()
        await asyncio.wait([running])
        server.scripts.clear()
    last = Load(server, path)
    assert await last.run()
    assert customers(server) == once(40)
    assert last.totals.loaded == 40
    assert last.totals.earlier > 0
    with Journal.open(path, Table(path).digest()) as journal:
        assert journal.complete is not None
        assert journal.complete["loaded"] == 40


async def test_a_request_is_on_disk_before_it_is_sent(server: ScriptedServer, tmp_path: Path) -> None:
    """Every request id that the service ever saw follows from the journal."""
    path = orders_file(tmp_path, 23)
    server.script("BatchCreateOrders", Items({1: refused_id("REQUEST_ID_EXPIRED", LATER)}), LoseReply())
    await Load(server, path).run()
    with Journal.open(path, Table(path).digest()) as journal:
        known = {
            mint.request_id(position)
            for batch in journal.batches
            for position in range(batch.first, batch.first + batch.count)
            for mint in (batch.mint, journal.mint_of(batch, position))
        }
    batches = server.sent(orders_pb2.BatchCreateOrdersRequest)
    assert {item.request_id for batch in batches for item in batch.requests} == known


async def test_expired_ids_are_minted_anew_and_only_those(server: ScriptedServer, tmp_path: Path) -> None:
    """An hour later the orders that were created are found, and those that never were get new ids."""
    path = orders_file(tmp_path, 5)
    server.script("BatchCreateOrders", unavailable(), unavailable())
    with pytest.raises(LoadStopped, match="nothing was acknowledged"):
        await Load(server, path, patience_s=0).run()
    expired = refused_id("REQUEST_ID_EXPIRED", LATER)
    server.script("BatchCreateOrders", Items({1: expired, 3: expired}))
    assert await Load(server, path).run()
    first, _, second, third = server.sent(orders_pb2.BatchCreateOrdersRequest)
    assert [item.request_id for item in first.requests] == [item.request_id for item in second.requests]
    assert [item.customer_id for item in third.requests] == ["c1", "c3"]
    assert not {item.request_id for item in third.requests} & {item.request_id for item in first.requests}
    assert customers(server) == once(5)


async def test_a_clock_ahead_is_corrected_when_nothing_was_sent_before(server: ScriptedServer, tmp_path: Path) -> None:
    """Fresh ids that are ahead are minted anew by the server's time, and ids of an earlier run stop the load."""
    path = orders_file(tmp_path, 5)
    ahead = refused_id("REQUEST_ID_AHEAD", LATER)
    server.script("BatchCreateOrders", Items(dict.fromkeys(range(5), ahead)))
    assert await Load(server, path).run()
    assert customers(server) == once(5)

    path.write_text(f"{HEADER}\nd1,EUR,tea,1,1\n")
    path.with_name("orders.csv.journal").unlink()
    server.script("BatchCreateOrders", LoseReply(), LoseReply())
    with pytest.raises(LoadStopped, match="nothing was acknowledged"):
        await Load(server, path, patience_s=0).run()
    server.script("BatchCreateOrders", Items({0: ahead}))
    with pytest.raises(LoadStopped, match="clock"):
        await Load(server, path).run()
    assert await Load(server, path).run()
    assert customers(server)["d1"] == 1


async def test_a_full_service_does_not_take_a_doubt_away(server: ScriptedServer, tmp_path: Path) -> None:
    """A batch that may be there keeps its ids when it is refused as ahead, though it was last refused as too much."""
    path = orders_file(tmp_path, 5)
    ahead = refused_id("REQUEST_ID_AHEAD", LATER)
    server.script("BatchCreateOrders", LoseReply(), FULL, Items(dict.fromkeys(range(5), ahead)))
    with pytest.raises(LoadStopped, match="clock"):
        await Load(server, path).run()
    assert await Load(server, path).run()
    assert customers(server) == once(5)


async def test_rejects_name_line_and_reason_also_after_a_restart(server: ScriptedServer, tmp_path: Path) -> None:
    """Rows that the file or the service makes impossible stand in the rejects file, whichever run met them."""
    path = tmp_path / "orders.csv"
    rows = ["a,EUR,tea,1,1,r1", "b,EUR,tea,0,1,", "a,EUR,pot,-1,1,r1", "c,EUR,tea,1,0.001,", "d,EUR,tea,1,1,"]
    path.write_text("\n".join([f"{HEADER},order_ref", *rows]) + "\n")
    quantity = [("lines[0].quantity", "is 0")]
    bad = Fail(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", violations=quantity)
    worse = Fail(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", violations=[("lines[1].quantity", "is -1")])
    server.script("BatchCreateOrders", Items({0: bad}), Items({0: worse}), unavailable(), unavailable())
    pace = {"batch_orders_max": 1, "batches_in_flight_max": 1, "patience_s": 0}
    with pytest.raises(LoadStopped):
        await Load(server, path, **pace).run()
    last = Load(server, path)
    assert await last.run()
    assert (last.totals.rejected_orders, last.totals.rejected_rows, last.totals.loaded) == (3, 4, 1)
    with rejects_path(path).open(newline="") as file:
        found = {row["line"]: (row["reason"], row["customer_id"]) for row in csv.DictReader(file)}
    assert found == {
        "2": ("line 4 of the same order: quantity: is -1", "a"),
        "3": ("quantity: is 0", "b"),
        "4": ("quantity: is -1", "a"),
        "5": ("unit_price: 0.001 is finer than the minor unit of EUR, which has 2 decimals", "c"),
    }


async def test_a_defect_of_the_service_stops_the_load(server: ScriptedServer, tmp_path: Path) -> None:
    """What neither the file nor patience can help stops the load with the service's words; started again it goes on."""
    path = orders_file(tmp_path, 3)
    broken = Fail(grpc.StatusCode.DATA_LOSS, "STORE_CORRUPT", "shard 2 is damaged")
    server.script("BatchCreateOrders", Items({1: broken}))
    with pytest.raises(LoadStopped, match="shard 2 is damaged"):
        await Load(server, path).run()
    assert await Load(server, path).run()
    assert customers(server) == once(3)


async def test_a_file_that_changes_meanwhile_is_not_called_loaded(server: ScriptedServer, tmp_path: Path) -> None:
    """A file that is another one at the end of its load is told so."""
    path = orders_file(tmp_path, 3)
    load = Load(server, path)
    original = load._count

    def change() -> None:
        original()
        path.write_text(path.read_text() + "new,EUR,tea,1,1\n")

    load._count = change  # type: ignore[method-assign]  # the moment after the first batch
    with pytest.raises(LoadStopped, match="was changed while it was loaded"):
        await load.run()


async def test_a_large_order_goes_alone(server: ScriptedServer, tmp_path: Path) -> None:
    """Calls stay below what the service takes, whatever the number of orders they may hold."""
    path = tmp_path / "orders.csv"
    wide = "x" * 100_000
    path.write_text("\n".join([HEADER, *(f"c{i},EUR,{wide},1,1" for i in range(50))]))
    assert await Load(server, path, batch_orders_max=500).run()
    sizes = [batch.ByteSize() for batch in server.sent(orders_pb2.BatchCreateOrdersRequest)]
    assert len(sizes) > 2
    assert max(sizes) < 3 * 1024 * 1024


async def test_a_full_disk_stops_the_load_and_loses_nothing(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the journal cannot be written nothing more is sent, and with room again the load goes on."""
    path = orders_file(tmp_path, 23)
    begin = Journal.begin

    def full(journal: Journal, count: int, time_ms: int) -> Batch:
        if journal.next_position >= 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return begin(journal, count, time_ms)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "begin", full)
        with pytest.raises(LoadStopped, match="No space left"):
            await Load(server, path).run()
    assert sum(customers(server).values()) == 10
    assert await Load(server, path).run()
    assert customers(server) == once(23)
