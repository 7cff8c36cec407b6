"""What is stored, or kept by callers, between two releases: these bytes may never change.

A change here is no matter of a new expectation: orders that are stored would not be read any more, and requests that
are sent again after an upgrade would make a second order or be refused.
"""

from server.app import codec
from server.app.paging import decode_token, encode_token
from server.domain.order import Draft, Line, Order, Transition
from server.domain.states import State, Verb
from shards.contract import Row
from shards.keys import format_uuid, key_of, order_id_of, parse_uuid7

REQUEST_ID = parse_uuid7("0190b0a2-7c31-7d3f-8a55-2f1e9c6b7d10") or b""
ORDER_ID = "0190b0a2-7c31-7e5a-9434-6be4d741f8ef"
DRAFT = Draft("zoë", "EUR", (Line("tea", 2, 1250), Line("cup", 1, 0)), (("channel", "web"),))
ORDER = Order(
    parse_uuid7(ORDER_ID) or b"",
    *DRAFT,
    2500,
    (
        Transition(State.PENDING, 1_700_000_000_000_000),
        Transition(State.CANCELLED, 1_700_000_000_000_001, "why"),
    ),
)
BODY = bytes.fromhex(
    "0195a34555529293a374656102cd04e293a363757001009192a76368616e6e656ca3776562cd09c4"
    "929301cf00060a24181e4000a09305cf00060a24181e4001a3776879"
)


def test_a_request_has_its_order_id_for_ever() -> None:
    """The order id of a customer and a request id is what it was in the first release."""
    assert format_uuid(order_id_of("zoë", REQUEST_ID)) == ORDER_ID


def test_a_payload_has_its_digest_for_ever() -> None:
    """The digests of a create and of transitions are those that the marks of stored orders hold."""
    assert codec.draft_digest(DRAFT).hex() == "8b22c9d3e71e8115aab7f41b2c443faf"
    assert codec.transition_digest(Verb.CANCEL, None, "why").hex() == "f35878b662492a2aab508767bc73d46e"
    assert codec.transition_digest(Verb.SHIP, 2, "").hex() == "6169d5484b8fd887326c3ad9512ba563"


def test_stored_bodies_are_read_for_ever() -> None:
    """The body of a stored order is written and read as it was in the first release."""
    assert codec.encode(ORDER) == BODY
    assert codec.decode(Row(key_of(ORDER.order_id, 0), "zoë", bytes(64), BODY)) == ORDER


def test_page_tokens_outlive_the_process() -> None:
    """A page token that one process gave goes on in another, with and without a filter."""
    tokens = {
        State.PAID: "AQwhePIZa0HZAZCwonwxflqUNGvk10H475GcpM0",
        None: "AZMf1aXucbk1AZCwonwxflqUNGvk10H47_xlSEI",
    }
    for state, token in tokens.items():
        assert encode_token("zoë", state, ORDER.order_id) == token
        assert decode_token("zoë", state, token) == ORDER.order_id
