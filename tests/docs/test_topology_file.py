"""The page about the topology file says what the code reads."""

import re
import tomllib
from pathlib import Path

from shards import settings
from shards.settings import CassandraSettings, parse

PAGE = (Path(__file__).parents[2] / "docs" / "topology-file.md").read_text()


def test_example_is_a_topology_file() -> None:
    """The example on the page is read without a complaint, and means what its comments say."""
    example, mixed, following = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    file = parse(tomllib.loads(example), {}, Path())
    assert list(file.shards) == [0, 1]
    assert file.shards[0].replication == {"datacenter1": 3}
    assert file.topology is not None
    assert file.topology.keyspace == "crest_control"
    file = parse(tomllib.loads(mixed), {}, Path())
    assert file.embedded is not None
    assert file.ids == {0, 1, 2, 3, 4, 5, 6}
    assert file.topology is None
    file = parse(tomllib.loads(mixed + following), {}, Path())
    assert file.topology is None
    assert file.next is not None
    assert file.next.keyspace == "crest_control"


def test_every_key_is_on_the_page_with_its_default() -> None:
    """Each key that the code reads has a row, and the default in it is the code's."""
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    assert set(rows) == {"id", *settings._KEYS} - {"password"}
    defaults = CassandraSettings(())
    for key, said in rows.items():
        if said.startswith("`") and key != "replication":
            assert tomllib.loads(f"x = {said.strip('`')}")["x"] == getattr(defaults, key), key
