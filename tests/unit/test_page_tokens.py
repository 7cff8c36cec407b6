import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.app.paging import decode_token, encode_token
from server.domain.errors import OrderError, Reason
from server.domain.states import State

ORDER_IDS = st.binary(min_size=16, max_size=16)
FILTERS = st.sampled_from([None, *State])


@given(st.text(max_size=128), FILTERS, ORDER_IDS)
def test_a_token_goes_on_where_the_page_ended(customer_id: str, state: State | None, last: bytes) -> None:
    """A token tells the last order of its page, to the same customer and filter."""
    assert decode_token(customer_id, state, encode_token(customer_id, state, last)) == last


@given(FILTERS, ORDER_IDS, st.data())
def test_any_damage_is_noticed(state: State | None, last: bytes, data: st.DataObject) -> None:
    """A token of which any one bit is another, or which is cut or longer, is refused."""
    token = encode_token("zoë", state, last)
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1), label="bit")
    raw[bit // 8] ^= 1 << bit % 8
    damaged = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    for text in (damaged, token[:-4], token + token[:4]):
        with pytest.raises(OrderError) as refused:
            decode_token("zoë", state, text)
        assert refused.value.reason is Reason.PAGE_TOKEN_INVALID


@given(st.text(max_size=60))
def test_any_text_is_refused_and_nothing_worse(text: str) -> None:
    """A text that is no token is refused as such."""
    with pytest.raises(OrderError) as refused:
        decode_token("zoë", None, text)
    assert refused.value.reason is Reason.PAGE_TOKEN_INVALID
