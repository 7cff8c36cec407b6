"""A write through all its attempts: one request id, and a new one only where nothing can have been written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from clients.calls import Calls
from clients.errors import OrderError, RequestIdAhead, RequestIdExpired
from clients.request_ids import RequestIds
from clients.retry import Attempts

RENEWALS_MAX: Final = 2
"""New request ids in one logical call: one for a wrong clock, and one for a clock that is set at that moment."""

AnswerT = TypeVar("AnswerT")


class Write(Protocol):
    """A request that carries a request id."""

    request_id: str


async def carry(
    calls: Calls,
    ids: RequestIds,
    send: Callable[[], Awaitable[AnswerT]],
    request: Write,
    attempts: Attempts,
    *,
    minted: bool,
    counted: bool = False,
) -> AnswerT:
    """Returns the answer to a write; raises OrderError.

    ``send`` makes an attempt with ``request`` as it then is, and with ``counted`` counts its successes itself. An id
    that was ``minted`` for this call may be minted anew.
    """
    renewals = 0
    in_doubt = False  # an attempt under the present id may have written
    while True:
        try:
            answer = await send()
        except (RequestIdExpired, RequestIdAhead) as error:
            error.attempts = attempts.failed + 1
            error.request_id = request.request_id
            # "Expired" says that nothing exists under the id; "ahead" only that this attempt made nothing.
            error.in_doubt = in_doubt
            in_doubt = error.maybe_done
            if not (minted and not in_doubt and renewals < RENEWALS_MAX and ids.learn(error)):
                raise
            renewals += 1
            request.request_id = ids.mint()
        except OrderError as error:
            error.request_id = request.request_id
            error.in_doubt = in_doubt
            in_doubt = error.maybe_done
            await calls.wait_or_raise(error, attempts)
        else:
            attempts.progressed(counted=counted)
            return answer
