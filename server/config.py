"""Settings: what they are, which source wins, and how they travel to the other processes.

One table, the fields of ``Config``: flags, environment variables, keys of the TOML file, ``--help`` and
``docs/operations.md`` all follow from it. Standard library only, because the supervisor imports it.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import os
import tomllib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

ENVIRON_PREFIX: Final = "CREST_"
"""Environment variables are the setting's name in capitals behind this: ``CREST_DATA_DIR``."""

WORKERS_MAX: Final = 64
"""Each worker takes a port and writes to every shard; beyond this many, another machine is the answer."""

PORT_MAX: Final = 65_535

_META: Final = "setting"
_WILDCARDS: Final = frozenset({"0.0.0.0", "::", "[::]"})  # noqa: S104  # to be recognised, not to be bound
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})

_T = TypeVar("_T")


class ConfigError(Exception):
    """A setting cannot be used; the text names its source, its value and what is allowed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """What is known of a field of ``Config`` beside its name, type and default."""

    text: str
    """A sentence for ``--help`` and the manual."""
    panel: str
    """The heading it stands under there."""
    choices: tuple[str, ...] = ()
    """Allowed texts; empty: any."""
    least: float | None = None
    most: float | None = None

    def allowed(self, kind: type) -> str:
        """Returns in words which values are allowed."""
        if self.choices:
            return ("one of " if len(self.choices) > 1 else "") + ", ".join(self.choices)
        what = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}.get(kind, "a text")
        if self.least is not None and self.most is not None:
            return f"{what} from {self.least:g} to {self.most:.12g}"
        return what if self.least is None else f"{what}, at least {self.least:g}"


def _workers_default() -> int:
    """One worker a core that this process may use; at least two, so that one can be replaced while one serves."""
    return min(max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2), WORKERS_MAX)


def _field(  # a table's row
    default: _T,
    panel: str,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    factory: Callable[[], _T] | None = None,
) -> _T:
    """Declares a setting. To a type checker it is its default; ``factory`` computes one on the machine it runs on."""
    metadata = {_META: Setting(text, panel, choices, least, most)}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting, checked. Made by ``load``, or by ``from_json`` from another process's ``to_json``."""

    host: str = _field("127.0.0.1", "Listening", "Address to listen on.")
    port: int = _field(
        50051, "Listening", "Port shared by all workers; worker N listens on this + 1 + N, too.", least=1, most=PORT_MAX
    )
    advertise_host: str = _field(
        "",
        "Listening",
        "Host under which callers reach the workers; needed when `host` is a wildcard. Empty: as `host`.",
    )
    metrics_port: int = _field(
        9464, "Listening", "Port of the Prometheus metrics and of /healthz, on `host`.", least=1, most=PORT_MAX
    )
    transport: str = _field(
        "auto",
        "Listening",
        "gRPC implementation; auto takes the fastest one that can do what is asked.",
        choices=("auto", "grpcio", "native"),
    )
    tls_cert: str = _field("", "Listening", "PEM file of the server's certificate chain; with it callers must use TLS.")
    tls_key: str = _field("", "Listening", "PEM file of that certificate's key.")
    tls_client_ca: str = _field(
        "", "Listening", "PEM file of an authority; with it every caller must show a certificate of that authority."
    )
    channelz: bool = _field(
        default=False, panel="Listening", text="Serve channelz, which shows connections and their peers to any caller."
    )
    admin_rpcs: bool = _field(
        default=False,
        panel="Listening",
        text="Serve topology.v1.RebalanceService: whoever reaches the port can move orders between shards.",
    )

    store: str = _field("embedded", "Storage", "Where orders are kept.", choices=("embedded", "cassandra"))
    topology_file: str = _field(
        "", "Storage", "TOML file that names the clusters of the store cassandra (docs/topology-file.md)."
    )
    data_dir: Path = _field(  # noqa: RUF009  # a Path is immutable
        Path("data"), "Storage", "Directory of the embedded store; created when missing."
    )
    shards: int = _field(
        1,
        "Storage",
        "Shards to make in a new data directory; an existing one must have this many. On one disk more of them make "
        "smaller, dearer commits.",
        least=1,
        most=64,
    )
    queue_rows_max: int = _field(
        4096,
        "Storage",
        "Rows that the queue of a shard holds in one worker; beyond it callers are refused.",
        least=1,
        most=1_000_000,
    )
    hand_over: bool = _field(
        default=True,
        panel="Storage",
        text="Give each lane of a shard one committer among the workers, and hand the rows of the others over to it.",
    )
    cache: str = _field(
        "local",
        "Storage",
        "What remembers orders for reads: each worker for itself, all of them in a Redis Cluster too, or nothing.",
        choices=("local", "redis_cluster", "none"),
    )
    cache_rows_max: int = _field(
        50_000, "Storage", "Orders that one worker remembers by itself; 0 for none.", least=0, most=10_000_000
    )
    cache_ttl_s: float = _field(
        5.0, "Storage", "Age in seconds beyond which no cached order is served.", least=0, most=3600
    )
    redis_seeds: str = _field(
        "",
        "Storage",
        "Some nodes of the Redis Cluster, as host:port,host:port: for its cache, and one rate_limit on all machines.",
    )
    redis_prefix: str = _field(
        "crest:", "Storage", "Before every key in Redis: one of its own for each store that shares a Redis Cluster."
    )
    redis_username: str = _field("", "Storage", "User of Redis; empty for its default user.")
    redis_password_file: str = _field("", "Storage", "File with the password of that user; empty for none.")

    admission: bool = _field(
        default=True,
        panel="Overload",
        text="Refuse calls that a worker could not serve in time, those of low priority first (see Overload).",
    )
    rate_limit: float = _field(
        0.0,
        "Overload",
        "Calls a second that each caller (`x-caller-id`) may make, counted in Redis when there is one; 0: any number.",
        least=0,
        most=1_000_000,
    )
    rate_burst: int = _field(
        0,
        "Overload",
        "Calls that it may make at once after a pause; 0: as many as in a second.",
        least=0,
        most=1_000_000,
    )

    workers: int = _field(
        2,
        "Processes",
        "Worker processes: by default one a core, and at least 2.",
        least=1,
        most=WORKERS_MAX,
        factory=_workers_default,
    )
    boot_timeout_s: float = _field(
        30.0, "Processes", "Seconds after which a worker that is not ready is ended.", least=1, most=3600
    )
    boot_failures_max: int = _field(
        3, "Processes", "The server stops when a worker fails to start so many times in a row.", least=1, most=100
    )
    stall_timeout_s: float = _field(
        3.0,
        "Processes",
        "Seconds within which a worker is killed when its event loop does not answer.",
        least=1,
        most=3600,
    )
    drain_wait_s: float = _field(
        1.0,
        "Processes",
        "Seconds for which a draining worker reports NOT_SERVING and still takes calls.",
        least=0,
        most=600,
    )
    drain_grace_s: float = _field(
        10.0, "Processes", "Seconds after that for its calls to finish before they are cut.", least=0, most=3600
    )
    roll_settle_s: float = _field(
        2.0,
        "Processes",
        "Seconds without a change of workers before a rolling restart goes on: callers come back to a port meanwhile.",
        least=0,
        most=600,
    )

    log_format: str = _field(
        "auto",
        "Logging",
        "auto is console on a terminal and json elsewhere.",
        choices=("auto", "console", "json"),
    )
    log_level: str = _field(
        "info", "Logging", "Least level that is logged.", choices=("debug", "info", "warning", "error")
    )

    def redis_addresses(self) -> tuple[tuple[str, int], ...]:
        """Returns host and port of each of ``redis_seeds``. Raises ``ConfigError``."""
        seeds = [seed.strip().rpartition(":") for seed in self.redis_seeds.split(",") if seed.strip()]
        if not all(host and port.isdecimal() and 0 < int(port) <= PORT_MAX for host, _, port in seeds):
            raise ConfigError(f"redis_seeds = {self.redis_seeds}: must be host:port, separated by commas")
        return tuple((host.strip("[]"), int(port)) for host, _, port in seeds)

    def address(self, worker: int) -> str:
        """Returns ``host:port`` under which callers reach one worker (from 0)."""
        host = self.advertise_host or self.host
        return f"{_bracketed(host)}:{self.worker_port(worker)}"

    def worker_port(self, worker: int) -> int:
        """Returns the port of one worker (from 0)."""
        return self.port + 1 + worker

    def to_json(self) -> str:
        """Returns the settings for another process of this server."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Returns the settings that ``to_json`` wrote."""
        raw = json.loads(text)
        return cls(**{**raw, "data_dir": Path(raw["data_dir"])})


@functools.cache
def settings() -> Mapping[str, tuple[Setting, type]]:
    """Returns what is known of every field of ``Config``, and its type, in order."""
    kinds = typing.get_type_hints(Config)
    return {field.name: (field.metadata[_META], kinds[field.name]) for field in dataclasses.fields(Config)}


def load(flags: Mapping[str, object], environ: Mapping[str, str], toml_path: Path | None) -> Config:
    """Returns the settings: a flag wins over the environment, that over the TOML file, that over the default.

    ``flags`` holds None for those not given. Of the environment only names of settings are read, since others may use
    the prefix. Raises ``ConfigError``.
    """
    chosen: dict[str, object] = {}
    if toml_path is not None:
        for name, value in _read_toml(toml_path).items():
            chosen[name] = _checked(name, value, f"{toml_path}: {name}")
    for name in settings():
        variable = ENVIRON_PREFIX + name.upper()
        if variable in environ:
            chosen[name] = _checked(name, environ[variable], variable)
    for name, value in flags.items():
        if value is not None:
            chosen[name] = _checked(name, value, "--" + name.replace("_", "-"))
    config = Config(**typing.cast("dict[str, Any]", chosen))
    _check_together(config)
    return config


def reference() -> str:
    """Returns the tables of settings in ``docs/operations.md``."""
    defaults = Config(workers=2)
    shown = {name: f"`{_as_toml(getattr(defaults, name))}`" for name in settings()}
    shown |= {"workers": "a core each, at least 2", "advertise_host": "as `host`"}
    lines: list[str] = []
    panel = ""
    for name, (setting, kind) in settings().items():
        if setting.panel != panel:
            panel = setting.panel
            lines += ["", f"### {panel}", "", "| setting | default | allowed | meaning |", "|---|---|---|---|"]
        lines.append(f"| `{name}` | {shown[name]} | {setting.allowed(kind)} | {setting.text} |")
    return "\n".join(lines[1:]) + "\n"


def _as_toml(value: object) -> str:
    """Returns a value as it is written in the settings file."""
    return json.dumps(value, default=str)


def _read_toml(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no TOML: {error}") from error
    for name in content:
        if name not in settings():
            near = difflib.get_close_matches(name, settings(), n=1)
            hint = f"did you mean {near[0]}?" if near else "the settings are " + ", ".join(settings())
            raise ConfigError(f"{path}: there is no setting {name}: {hint}")
    return content


def _checked(name: str, value: object, source: str) -> object:
    """Returns a value as its field's type; raises ``ConfigError`` where it is not allowed."""
    setting, kind = settings()[name]
    refusal = ConfigError(f"{source} = {value}: must be {setting.allowed(kind)}")
    try:
        typed = _typed(value, kind)
    except ValueError as error:
        raise refusal from error
    if setting.choices and typed not in setting.choices:
        raise refusal
    if isinstance(typed, int | float) and not isinstance(typed, bool):
        # `not (a <= b)` refuses NaN too
        if setting.least is not None and not setting.least <= typed:
            raise refusal
        if setting.most is not None and not typed <= setting.most:
            raise refusal
    return typed


def _typed(value: object, kind: type) -> object:
    """Returns a text of the environment, or a value of TOML or a flag, as ``kind``. Raises ``ValueError``."""
    if kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
    elif kind is Path:
        if isinstance(value, str | Path) and str(value):
            return Path(value)
    elif kind is str:
        if isinstance(value, str):
            return value
    elif isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        if kind is int and isinstance(value, float):
            raise ValueError(value)
        return kind(value)
    raise ValueError(value)


def _check_together(config: Config) -> None:
    """Raises ``ConfigError`` for settings that are fine one by one and contradict each other."""
    last = config.worker_port(config.workers - 1)
    taken = f"port = {config.port} and workers = {config.workers} take the ports {config.port}-{last}"
    if last > PORT_MAX:
        raise ConfigError(f"{taken}: the last port there is is {PORT_MAX}")
    if config.port <= config.metrics_port <= last:
        raise ConfigError(f"{taken}: metrics_port = {config.metrics_port} must be another one")
    if config.store == "cassandra" and not config.topology_file:
        raise ConfigError("store = cassandra: say with topology_file where its shards are (docs/topology-file.md)")
    if not config.redis_addresses() and config.cache == "redis_cluster":
        raise ConfigError("cache = redis_cluster: say with redis_seeds where its nodes are, as host:port,host:port")
    if set(config.redis_prefix) & set("{}"):
        raise ConfigError(f"redis_prefix = {config.redis_prefix}: braces would put all keys on one node")
    if bool(config.tls_cert) != bool(config.tls_key) or (config.tls_client_ca and not config.tls_cert):
        raise ConfigError("tls_cert and tls_key go together, and tls_client_ca needs both")
    if config.tls_cert and config.transport == "native":
        raise ConfigError("transport = native serves no TLS: take auto or grpcio, or leave tls_cert out")
    if not config.host:
        raise ConfigError("host is empty: name an address, such as 127.0.0.1, or 0.0.0.0 for all")
    if config.host in _WILDCARDS and not config.advertise_host:
        raise ConfigError(
            f"host = {config.host} listens on every address: say with advertise_host under which one callers reach it"
        )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201  # for the manual
