"""The topology file: what it may say, and what is said of mistakes."""

import tomllib
from pathlib import Path

import pytest

from shards.settings import Credentials, EmbeddedSettings, SettingsError, Tls, TopologyFile, load, parse

SMALLEST = """
[[shards]]
id = 0
contact_points = ["127.0.0.1"]
"""


def read(text: str, folder: Path = Path(), **environ: str) -> TopologyFile:
    """What a file with this text means."""
    return parse(tomllib.loads(text), environ, folder)


def test_smallest_file_has_the_documented_defaults() -> None:
    """One shard with a contact point is enough; the topology then lives with it."""
    file = read(SMALLEST)
    assert file.topology is file.shards[0]
    shard = file.shards[0]
    assert (shard.port, shard.keyspace, shard.driver, shard.lanes) == (9042, "crest", "acsylla", 1)
    assert shard.replication == {"datacenter1": 3}
    assert (shard.consistency, shard.serial_consistency) == ("LOCAL_QUORUM", "SERIAL")


def test_the_topology_may_be_about_to_move() -> None:
    """Where the topology is to go does not change where it is; to stay is no move."""
    file = read(SMALLEST + '[topology.next]\ncontact_points = ["127.0.0.2"]')
    assert file.topology is file.shards[0]
    assert file.next is not None
    assert file.next.contact_points == ("127.0.0.2",)
    both = '[topology]\nkeyspace = "a"\ncontact_points = ["b"]\n[topology.next]\ncontact_points = ["c"]'
    stated = read(SMALLEST + both).topology
    assert stated is not None
    assert stated.keyspace == "a"
    with pytest.raises(SettingsError, match="kept anyway"):
        read(SMALLEST + '[topology.next]\ncontact_points = ["127.0.0.1"]')


def test_shards_take_defaults_and_may_differ() -> None:
    """What ``defaults`` says holds for every shard and the topology unless they say otherwise."""
    file = read(
        """
        [defaults]
        port = 9043
        replication = 1
        driver = "cassandra-driver"
        [[shards]]
        id = 3
        contact_points = ["10.0.0.1", "node-2.example"]
        [[shards]]
        id = 5
        contact_points = ["10.0.1.1"]
        lanes = 4
        replication = { datacenter1 = 3, backup = 2 }
        consistency = "QUORUM"
        [topology]
        contact_points = ["10.0.2.1"]
        keyspace = "crest_control"
        """
    )
    assert file.shards[3].contact_points == ("10.0.0.1", "node-2.example")
    assert (file.shards[3].port, file.shards[3].lanes, file.shards[5].lanes) == (9043, 1, 4)
    assert file.shards[5].replication == {"datacenter1": 3, "backup": 2}
    assert file.topology is not None
    assert (file.topology.keyspace, file.topology.driver) == ("crest_control", "cassandra-driver")


def test_password_comes_from_environment_or_file(tmp_path: Path) -> None:
    """The password is that of the named variable, or the first line of the named file."""
    by_env = read(SMALLEST + 'username = "crest"\npassword_env = "CASS_PW"', CASS_PW="sesame")
    assert by_env.shards[0].credentials == Credentials("crest", "sesame")
    (tmp_path / "pw").write_text("open\n")
    by_file = read(SMALLEST + 'username = "crest"\npassword_file = "pw"', tmp_path)
    assert by_file.shards[0].credentials == Credentials("crest", "open")


def test_tls_files_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    """Relative paths are those beside the topology file; the host is verified unless the file says no."""
    for name in ("ca.pem", "me.pem", "me.key"):
        (tmp_path / name).write_text("x")
    text = '[shards.tls]\nca_file = "ca.pem"\ncert_file = "me.pem"\nkey_file = "me.key"'
    assert read(SMALLEST + text, tmp_path).shards[0].tls == Tls(
        str(tmp_path / "ca.pem"), str(tmp_path / "me.pem"), str(tmp_path / "me.key")
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"\[\[shards\]\]: at least one"),
        ("[[shards]]\nid = 0", r"shards\[0\].contact_points: missing"),
        (SMALLEST + "colour = 1", r"shards\[0\]: unknown key 'colour'; known are contact_points"),
        (SMALLEST + SMALLEST, "0 is there twice"),
        (SMALLEST + SMALLEST.replace("0\n", "1\n"), "shards 0 and 1 are both keyspace 'crest' at 127.0.0.1"),
        (SMALLEST + 'port = "x"', r"shards\[0\].port: a whole number from 1 to 65535"),
        (SMALLEST + "port = true", "a whole number"),
        (SMALLEST + 'keyspace = "Crest"', "allowed are a lower case letter"),
        (SMALLEST + 'keyspace = "x\'; DROP"', "allowed are"),
        (SMALLEST + 'consistency = "ONE"', "'ONE'; allowed are LOCAL_QUORUM, QUORUM"),
        (SMALLEST + 'driver = "gocql"', "allowed are acsylla, cassandra-driver"),
        (SMALLEST + "lanes = 0", "from 1 to 64"),
        (SMALLEST + "request_timeout_s = 0", "seconds from"),
        (SMALLEST + "replication = 9", "from 1 to 7"),
        (SMALLEST + "replication = { other = 3 }", "does not name data centre 'datacenter1'"),
        (SMALLEST + "replication = { datacenter1 = 3, b = 3 }", "QUORUM goes with SERIAL"),
        (SMALLEST + 'password = "x"', "not in this file"),
        ('[defaults]\npassword = "x"' + SMALLEST, "not in this file"),
        (SMALLEST + 'username = "x"', "either password_env or password_file"),
        (SMALLEST + 'username = "x"\npassword_env = "NOPE"', "the environment has no NOPE"),
        (SMALLEST + 'username = "x"\npassword_file = "nope"', "nope cannot be read"),
        (SMALLEST + 'username = "x"\npassword_file = "\\u0000"', "cannot be read"),
        (SMALLEST + 'password_env = "X"', "there is no username"),
        (SMALLEST + '[shards.tls]\nca_file = "nope"', "nope is not a file"),
        (SMALLEST + f'[shards.tls]\nca_file = "{"x" * 300}"', "xxx is not a file"),
        (SMALLEST + "[shards.tls]", "tls.ca_file: missing"),
        ('[[shards]]\nid = 0\ncontact_points = ["127.0.0.1:9042"]', r"ports go into port"),
        ("[defaults]\nid = 1" + SMALLEST, "defaults: unknown key 'id'"),
    ],
)
def test_mistakes_are_named(text: str, words: str) -> None:
    """Each mistake is refused with one line that names the key and what is allowed."""
    with pytest.raises(SettingsError, match=words) as caught:
        read(text)
    assert "\n" not in str(caught.value)


def test_file_is_named_in_every_error(tmp_path: Path) -> None:
    """A file that is missing, no TOML, or wrong is named."""
    path = tmp_path / "topology.toml"
    for content in (None, b"[", b"\xff", b"[other]"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(SettingsError, match=r"topology\.toml"):
            load(path, {})


def test_a_data_directory_beside_clusters() -> None:
    """A file may name a data directory's shards beside those in clusters; the lowest one keeps the topology."""
    text = """
        [embedded]
        data_dir = "data"
        shards = [0, 2]
        [[shards]]
        id = 1
        contact_points = ["a"]
    """
    file = read(text, Path("/etc/crest"))
    assert file.embedded == EmbeddedSettings(Path("/etc/crest/data"), frozenset({0, 2}))
    assert file.ids == {0, 1, 2}
    assert set(file.shards) == {1}
    assert file.topology is None
    moved = read(text + '[topology]\ncontact_points = ["b"]')
    assert moved.topology is not None
    assert read(text.replace("[0, 2]", "[2]").replace("id = 1", "id = 0")).topology is not None
    assert read(text.partition("[[shards]]")[0]).shards == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[embedded]\nshards = [1]", "embedded.data_dir: a text"),
        ('[embedded]\ndata_dir = "d"', "embedded.shards: a list of at least one shard id"),
        ('[embedded]\ndata_dir = "d"\nshards = [-1]', "embedded.shards: a whole number"),
        ('[embedded]\ndata_dir = "d"\nshards = [1]\nport = 1', "embedded: unknown key 'port'"),
        (
            '[embedded]\ndata_dir = "d"\nshards = [1]\n[[shards]]\nid = 1\ncontact_points = ["a"]',
            r"shards\[0\].id: 1 is there twice",
        ),
    ],
)
def test_mistakes_about_a_data_directory_are_named(text: str, problem: str) -> None:
    """What is wrong in the table of the data directory is told by its key."""
    with pytest.raises(SettingsError, match=problem):
        read(text)
