"""A process that commits to a shard's file as fast as it can and says what was acknowledged, until it is ended.

``python -m tests.support.store_committer FILE NAME ROWS`` writes one line a commit to standard output: the request ids
(hex) whose rows were acknowledged. ``ROWS`` is the size of a commit. The first line is ``ready``.
"""

import asyncio
import sys
from pathlib import Path

from shards.contract import Row, Verdict
from shards.keys import mint_uuid7
from shards.stores.embedded import EmbeddedStore
from tests.support.rows import new_row

BODY_BYTES = 700


def row_of(name: str, request_id: bytes) -> Row:
    """The one row that this request makes: anyone can tell whether it is whole."""
    body = (request_id * (BODY_BYTES // len(request_id) + 1))[:BODY_BYTES]
    return new_row(f"{name}-{request_id[-1] % 5}", body=body, request_id=request_id)


async def commit_for_ever(path: Path, name: str, rows_per_commit: int) -> None:
    """Commits new rows, and reports each commit before it begins the next."""
    store = await EmbeddedStore.open(path)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        request_ids = [mint_uuid7() for _ in range(rows_per_commit)]
        outcomes = await store.commit([row_of(name, request_id) for request_id in request_ids])
        assert all(outcome.verdict is Verdict.APPLIED for outcome in outcomes)
        sys.stdout.write(" ".join(request_id.hex() for request_id in request_ids) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(commit_for_ever(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
