"""The file of a load: what becomes an order, what a reject, and with which words."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients import money
from clients.load import Table, TableError
from clients.load.table import Reject, TableOrder

HEADER = "customer_id,currency_code,sku,quantity,unit_price"


def table(tmp_path: Path, content: str | bytes) -> Table:
    """A table with this content."""
    path = tmp_path / "orders.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Table(path)


def read(tmp_path: Path, content: str | bytes) -> tuple[list[TableOrder], list[Reject]]:
    """The orders and the rejects of a file."""
    source = table(tmp_path, content)
    survey = source.survey()
    entries = list(source.orders())
    assert survey.orders == len(entries)
    orders = [entry for entry in entries if isinstance(entry, TableOrder)]
    return orders, [reject for entry in entries if isinstance(entry, list) for reject in entry]


def test_a_row_is_an_order(tmp_path: Path) -> None:
    """Columns may stand in any order, an attribute that is empty is none, and a BOM and CRLF are no matter."""
    content = "\ufeffsku,quantity,attr.color,unit_price,customer_id,currency_code\r\ntea,2,,19.90,zoë,EUR\r\n"
    (order,), rejects = read(tmp_path, content)
    assert not rejects
    assert (order.draft.customer_id, order.draft.currency_code, order.draft.attributes) == ("zoë", "EUR", {})
    assert [(line.sku, line.quantity, line.unit_price_minor) for line in order.draft.lines] == [("tea", 2, 1990)]
    assert order.rows[0].line == 2


def test_rows_of_one_ref_are_one_order(tmp_path: Path) -> None:
    """Rows with the same order_ref, adjacent or not, are the lines of one order, and their attributes come together."""
    content = (
        f"{HEADER},order_ref,attr.a,attr.b\nzoe,EUR,tea,1,1,r1,x,\nmax,EUR,cup,1,1,r2,,\n"
        "bob,EUR,jar,1,1,,,\nzoe,EUR,pot,2,1,r1,,y\n\n"
    )
    orders, rejects = read(tmp_path, content)
    assert not rejects
    found = [(order.draft.customer_id, [line.sku for line in order.draft.lines]) for order in orders]
    assert found == [("max", ["cup"]), ("bob", ["jar"]), ("zoe", ["tea", "pot"])]
    assert orders[-1].draft.attributes == {"a": "x", "b": "y"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("zoe,EUR,tea,1,1.001", "finer than the minor unit of EUR"),
        ("zoe,JPY,tea,1,1.5", "finer than the minor unit of JPY"),
        ("zoe,EUX,tea,1,1", "no currency"),
        ("zoe,EUR,tea,1,1e3", "not a decimal number"),
        ("zoe,EUR,tea,1,NaN", "not a decimal number"),
        ("zoe,EUR,tea,1.5,1", "quantity: '1.5' is not a whole number"),
        ("zoe,EUR,tea,,1", "quantity: '' is not a whole number"),
        ("zoe,EUR,tea,99999999999999999999,1", "more than 64 bits"),
        ("zoe,EUR,tea,1,99999999999999999999", "more than 64 bits"),
        ("zoe,EUR,tea,1", "has 4 cells, and the header has 5"),
        ("zoe,EUR,tea,1,1,1", "has 6 cells"),
        (b"zo\xff,EUR,tea,1,1", "customer_id: is not UTF-8"),
        ('zoe,EUR,"' + "x" * 200_000 + '",1,1', "is no CSV row"),
    ],
)
def test_a_bad_row_is_a_reject_and_the_rest_goes_on(tmp_path: Path, row: str | bytes, reason: str) -> None:
    """A row that is no order is named with its line and its fault, and its neighbours are orders."""
    row = row.encode() if isinstance(row, str) else row
    good = b"zoe,EUR,tea,1,1"
    orders, rejects = read(tmp_path, b"\n".join([HEADER.encode(), good, row, good]))
    assert len(orders) == 2
    assert [reject.row.line for reject in rejects] == [3]
    assert reason in rejects[0].reason


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ("max,EUR,pot,1,1,r1,x", "customer_id: 'max' differs from 'zoe' on line 2"),
        ("zoe,USD,pot,1,1,r1,x", "currency_code: 'USD' differs"),
        ("zoe,EUR,pot,1,1,r1,y", "attr.a: 'y' differs from 'x'"),
        ("zoe,EUR,pot,0.5,1,r1,x", "not a whole number"),
    ],
)
def test_an_order_is_rejected_as_a_whole(tmp_path: Path, second: str, reason: str) -> None:
    """One bad row rejects every row of its order, and the good ones say where the fault is."""
    orders, rejects = read(tmp_path, f"{HEADER},order_ref,attr.a\nzoe,EUR,tea,1,1,r1,x\n{second}\n")
    assert not orders
    assert rejects[0].reason.startswith("line 3 of the same order: ")
    assert reason in rejects[1].reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("customer_id,sku\n", "lacks currency_code, quantity, unit_price"),
        (f"{HEADER},sku\n", "sku more than once"),
        (f"{HEADER},colour\n", "no order has: 'colour'"),
        (f"{HEADER},attr.\n", "no order has: 'attr.'"),
    ],
)
def test_a_header_that_names_no_orders_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    """A file whose header is wrong is refused before anything is sent, with what is wrong."""
    with pytest.raises(TableError, match=reason):
        table(tmp_path, content)


def test_a_corrected_rejects_file_can_be_loaded(tmp_path: Path) -> None:
    """The columns that a rejects file has before those of its source are passed over."""
    orders, rejects = read(tmp_path, f"line,reason,{HEADER}\n7,was bad,zoe,EUR,tea,1,1\n")
    assert (len(orders), rejects) == (1, [])


@given(st.integers(-(2**63) + 1, 2**63 - 1), st.sampled_from(["EUR", "JPY", "BHD", "CLF"]))
def test_amounts_come_back(minor: int, currency: str) -> None:
    """An amount written out is read as the same number of minor units."""
    assert money.to_minor(money.to_text(minor, currency), currency) == minor
