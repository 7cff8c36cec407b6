"""Settings: which source wins, what is refused and how it is said."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.config import Config, ConfigError, load, settings


def toml(tmp_path: Path, text: str) -> Path:
    """A settings file with this text."""
    path = tmp_path / "crest.toml"
    path.write_text(text)
    return path


def test_defaults_stand_alone() -> None:
    """Without any source the defaults hold, and they allow each other."""
    config = load({}, {}, None)
    assert config == Config()
    assert config.workers >= 2


def test_flag_wins_over_environment_over_file(tmp_path: Path) -> None:
    """A flag wins over a variable, that over the file, and that over the default."""
    path = toml(tmp_path, "port = 1000\nmetrics_port = 2000\nworkers = 3\n")
    config = load({"port": 1002, "shards": None}, {"CREST_PORT": "1001", "CREST_METRICS_PORT": "2001"}, path)
    assert (config.port, config.metrics_port, config.workers, config.shards) == (1002, 2001, 3, 1)


def test_foreign_variables_are_left_alone() -> None:
    """A variable with our prefix that is no setting is no error, since others may use the prefix."""
    assert load({}, {"CREST_SERVICE_HOST": "10.0.0.1"}, None) == Config()


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("1", True), ("YES", True), ("off", False), ("False", False)]
)
def test_truth_has_a_few_names(text: str, expected: bool) -> None:
    """A switch in the environment takes the usual words."""
    assert load({}, {"CREST_CHANNELZ": text}, None).channelz is expected


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"CREST_PORT": "tcp://10.0.0.1:50051"}, "CREST_PORT = tcp://10.0.0.1:50051: must be a whole number from 1"),
        ({"CREST_PORT": "0"}, "CREST_PORT = 0: must be a whole number from 1 to 65535"),
        ({"CREST_STALL_TIMEOUT_S": "nan"}, "must be a number from 1 to 3600"),
        ({"CREST_CHANNELZ": "perhaps"}, "must be true or false"),
        ({"CREST_TRANSPORT": "carrier pigeon"}, "must be one of auto, grpcio, native"),
        ({"CREST_DATA_DIR": ""}, "must be a path"),
        ({"CREST_PORT": "65535"}, "the last port there is is 65535"),
        ({"CREST_METRICS_PORT": "50052"}, "metrics_port = 50052 must be another one"),
        ({"CREST_HOST": "::"}, "say with advertise_host"),
        ({"CREST_HOST": ""}, "host is empty"),
        ({"CREST_CACHE": "redis_cluster"}, "say with redis_seeds where its nodes are"),
        ({"CREST_REDIS_SEEDS": "redis-1"}, "redis_seeds = redis-1: must be host:port"),
        ({"CREST_REDIS_SEEDS": "redis-1:0"}, "redis_seeds = redis-1:0: must be host:port"),
        ({"CREST_STORE": "cassandra"}, "store = cassandra: say with topology_file where"),
        ({"CREST_REDIS_PREFIX": "{crest}"}, "braces would put all keys on one node"),
    ],
)
def test_bad_value_is_named(environ: dict[str, str], said: str) -> None:
    """A refusal names the source, the value and what is allowed."""
    with pytest.raises(ConfigError) as refused:
        load({}, environ, None)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("worker = 2", "there is no setting worker: did you mean workers?"),
        ("zebra = 2", "the settings are host, port"),
        ("port = 1.5", "port = 1.5: must be a whole number"),
        ("port = true", "port = True: must be a whole number"),
        ("channelz = 1", "must be true or false"),
        ("port =", "is no TOML"),
    ],
)
def test_bad_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    """A refusal of a file names the file and the key."""
    path = toml(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        load({}, {}, path)
    assert str(path) in str(refused.value)
    assert said in str(refused.value)


@given(st.sampled_from(sorted(settings())), st.text(max_size=20))
def test_any_text_is_taken_or_refused(name: str, text: str) -> None:
    """No text of a variable leads to anything but settings or a refusal that names the variable."""
    variable = f"CREST_{name.upper()}"
    try:
        load({}, {variable: text}, None)
    except ConfigError as error:
        assert variable in str(error) or name in str(error)  # noqa: PT017  # either way is fine


def test_redis_seeds_are_addresses() -> None:
    """Seeds are hosts with ports, of either address family, with blanks where one likes."""
    config = load({"redis_seeds": "redis-1:6379, [::1]:6380", "cache": "redis_cluster"}, {}, None)
    assert config.redis_addresses() == (("redis-1", 6379), ("::1", 6380))


def test_settings_travel_as_json() -> None:
    """Another process reads the very same settings."""
    config = load({"data_dir": "a/b", "channelz": True, "drain_wait_s": 0.25}, {}, None)
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("host", "advertised", "address"),
    [("127.0.0.1", "", "127.0.0.1:50053"), ("0.0.0.0", "shop-1", "shop-1:50053"), ("::1", "", "[::1]:50053")],  # noqa: S104  # never bound
)
def test_workers_have_addresses(host: str, advertised: str, address: str) -> None:
    """A worker's address is the advertised host, else the one listened on, and its own port."""
    assert Config(host=host, advertise_host=advertised).address(1) == address
