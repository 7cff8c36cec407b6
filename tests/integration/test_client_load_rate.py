"""How fast a load goes when it is told."""

import time
from pathlib import Path

from clients import OrderClient
from clients.load import Journal, Loader, Pace, Table, Totals
from protos.orders.v1 import orders_pb2
from tests.support.addresses import loopback
from tests.support.scripted_server import ScriptedServer

HOST = loopback(30)
HEADER = "customer_id,currency_code,sku,quantity,unit_price"


async def test_a_load_goes_no_faster_than_told(tmp_path: Path) -> None:
    """With a rate, orders leave in small batches, and never more of them than the rate allows by then."""
    path, rate, count = tmp_path / "orders.csv", 40.0, 40
    path.write_text("\n".join([HEADER, *(f"c{i},EUR,tea,1,{i}.50" for i in range(count))]) + "\n")
    table, totals = Table(path), Totals()
    survey = table.survey()
    async with ScriptedServer(f"{HOST}:0") as server, OrderClient(server.address, discover=False) as client:
        with Journal.open(path, survey.digest) as journal:
            started = time.monotonic()
            assert await Loader(client, table, journal, totals, pace=Pace(rate=rate)).run()
            took_s = time.monotonic() - started
        batches = [len(batch.requests) for batch in server.sent(orders_pb2.BatchCreateOrdersRequest)]
    assert sum(batches) == len(server.orders) == count
    assert max(batches) <= rate / 10
    # all but the last batch are waited for; a slow machine only takes longer
    assert took_s >= (count - batches[-1]) / rate
