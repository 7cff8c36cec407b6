"""A process that raises a fact by one as fast as it can and says what was acknowledged, until it is ended.

``python -m tests.support.facts_writer FILE`` writes to standard output, one a line, the revisions that it made.
"""

import asyncio
import sys
from pathlib import Path

from shards.facts import Fact, Guard
from shards.stores.embedded import EmbeddedFacts

GUARD = Guard("doc", 1)


async def raise_for_ever(path: Path) -> None:
    """Replaces a fact and renews another, in turn."""
    facts = await EmbeddedFacts.open(path)
    await facts.create("s", GUARD.name, Fact(GUARD.revision, b""))
    await facts.create("s", "n", Fact(1, b""))
    await facts.grant("s", "lease", Fact(1, b""), GUARD)
    revision = 1
    while True:
        while not await facts.replace("s", "n", revision, Fact(revision + 1, b"%d" % revision)):
            revision = await facts.revision("s", "n")
        revision += 1
        await facts.renew("s", "lease", Fact(revision, b""), GUARD)
        sys.stdout.write(f"{revision}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(raise_for_ever(Path(sys.argv[1])))
