"""The limits that callers were promised, as numbers: the other tests use their names."""

from server.app.currencies import CURRENCIES
from server.domain import limits
from server.domain.order import Draft, Line, create, transition, validate_draft
from server.domain.states import Verb
from server.rpc import encoding
from shards.contract import BUCKET_S, SEAL_AFTER_S


def test_limits_are_the_promised_ones() -> None:
    """Every limit has the value that `orders.proto` tells callers."""
    assert {name: value for name, value in vars(limits).items() if name.isupper()} == {
        "CUSTOMER_ID_BYTES_MAX": 128,
        "LINES_MAX": 200,
        "SKU_BYTES_MAX": 64,
        "QUANTITY_MAX": 1_000_000,
        "UNIT_PRICE_MINOR_MAX": 1_000_000_000_000,
        "TOTAL_MINOR_MAX": 9_223_372_036_854_775_807,
        "ATTRIBUTES_MAX": 32,
        "ATTRIBUTE_KEY_BYTES_MAX": 64,
        "ATTRIBUTE_VALUE_BYTES_MAX": 256,
        "ORDER_BYTES_MAX": 32_768,
        "CALL_BYTES_MAX": 3_145_728,
        "REASON_BYTES_MAX": 256,
        "BATCH_ITEMS_MAX": 500,
        "PAGE_SIZE_DEFAULT": 50,
        "PAGE_SIZE_MAX": 1_000,
        "REQUEST_ID_AHEAD_MS_MAX": 60_000,
        "VERSION_MAX": 9_223_372_036_854_775_807,
    }
    assert (BUCKET_S, SEAL_AFTER_S) == (600, 900)


def test_the_largest_order_is_within_its_bytes() -> None:
    """The largest order that the limits of its parts allow, at the end of the longest life, has at most 32 KiB."""
    dearest = limits.TOTAL_MINOR_MAX // limits.LINES_MAX // limits.UNIT_PRICE_MINOR_MAX
    draft = Draft(
        "é" * (limits.CUSTOMER_ID_BYTES_MAX // 2),
        "EUR",
        (Line("s" * limits.SKU_BYTES_MAX, dearest, limits.UNIT_PRICE_MINOR_MAX),) * limits.LINES_MAX,
        tuple(
            (f"{i:0{limits.ATTRIBUTE_KEY_BYTES_MAX}}", "v" * limits.ATTRIBUTE_VALUE_BYTES_MAX)
            for i in range(limits.ATTRIBUTES_MAX)
        ),
    )
    validate_draft(draft, CURRENCIES)
    order = create(draft, bytes(16), 2**52)
    for verb in (Verb.CONFIRM_PAYMENT, Verb.SHIP, Verb.DELIVER, Verb.REFUND):
        order = transition(order, verb, "r" * limits.REASON_BYTES_MAX, None, 2**52)
    assert order.is_final
    assert 24_000 < len(encoding.order_message(order)) <= limits.ORDER_BYTES_MAX
