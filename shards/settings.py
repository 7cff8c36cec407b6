"""The topology file: where the shards live, and how to reach them. TOML, checked at start.

Every key, with its default, stands in docs/topology-file.md. Secrets are not in the file: it names the environment
variable or the file that holds them. Pure but for reading the files that it is told to read.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

DRIVERS: Final = ("acsylla", "cassandra-driver")
CONSISTENCIES: Final = ("LOCAL_QUORUM", "QUORUM")
SERIAL_CONSISTENCIES: Final = ("SERIAL", "LOCAL_SERIAL")

LANES_MAX: Final = 64
"""More lanes than the cores of a large node make groups small and orders dear."""

_KEYSPACE: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_DATA_CENTER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class SettingsError(ValueError):
    """The topology file is not as it must be. The text is one line for the operator, naming the key."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Encryption between a worker and the nodes; paths of PEM files."""

    ca_file: str
    """Certificates that the nodes' are checked against."""
    cert_file: str = ""
    """The worker's own certificate chain, where the nodes ask for one."""
    key_file: str = ""
    """Its private key."""
    verify_host: bool = True
    """Whether the certificate must name the address that is connected to."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who the worker is to the cluster. The password is never printed."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CassandraSettings:
    """One keyspace of one cluster: a shard, or where the topology is kept."""

    contact_points: tuple[str, ...]
    """Host names or addresses of some nodes; the others are learnt from them."""
    port: int = 9042
    keyspace: str = "crest"
    data_center: str = "datacenter1"
    """The data centre whose nodes coordinate; the others' are not spoken to."""
    replication: Mapping[str, int] = field(default_factory=dict)
    """Copies by data centre, used when the keyspace is created."""
    consistency: str = "LOCAL_QUORUM"
    serial_consistency: str = "SERIAL"
    driver: str = "acsylla"
    lanes: int = 1
    """How many partitions of a bucket take writes side by side; fixed when the shard is created."""
    request_timeout_s: float = 5.0
    speculative_delay_s: float = 0.1
    """A read that has not been answered for so long is sent to a second replica as well; 0 never."""
    batch_rows_max: int = 320
    batch_bytes_max: int = 256 * 1024
    batches_in_flight_max: int = 8
    credentials: Credentials | None = None
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """A data directory on this machine, some or all of whose files are shards beside those in clusters."""

    data_dir: Path
    shards: frozenset[int]
    """Their ids: shard n is the file ``shard-<n>.db``."""


@dataclass(frozen=True, slots=True)
class TopologyFile:
    """All of a topology file."""

    shards: Mapping[int, CassandraSettings]
    """Those in clusters, by shard id."""
    topology: CassandraSettings | None
    """Where the table of slots is kept; None: in the data directory."""
    embedded: EmbeddedSettings | None = None
    """The others."""
    next: CassandraSettings | None = None
    """Where the table of slots is to be moved, or has been."""

    @property
    def ids(self) -> frozenset[int]:
        """Every shard that is named."""
        return frozenset(self.shards) | (frozenset() if self.embedded is None else self.embedded.shards)


def load(path: Path, environ: Mapping[str, str]) -> TopologyFile:
    """Reads and checks a topology file and the secrets it points to. Raises ``SettingsError``."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not TOML: {error}") from error
    try:
        return parse(content, environ, path.parent)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def parse(content: Mapping[str, object], environ: Mapping[str, str], folder: Path) -> TopologyFile:
    """Returns the settings of a topology file's content. Relative paths start at ``folder``."""
    _refuse_unknown(content, ("defaults", "shards", "topology", "embedded"), "the file")
    defaults = _table(content.get("defaults", {}), "defaults")
    _refuse_unknown(defaults, _KEYS, "defaults")
    embedded = _embedded(content["embedded"], folder) if "embedded" in content else None
    listed = content.get("shards", [])
    if not isinstance(listed, list) or (not listed and embedded is None):
        raise SettingsError("[[shards]]: at least one is needed")
    shards: dict[int, CassandraSettings] = {}
    for position, entry in enumerate(listed):
        where = f"shards[{position}]"
        table = dict(_table(entry, where))
        number = _integer(table.pop("id", None), f"{where}.id", 0, 2**31 - 1)
        if number in shards or (embedded is not None and number in embedded.shards):
            raise SettingsError(f"{where}.id: {number} is there twice")
        shards[number] = _cluster({**defaults, **table}, where, environ, folder)
    _refuse_shared(shards)
    table = dict(_table(content.get("topology", {}), "topology"))
    file = TopologyFile(shards, None, embedded)
    if "next" in table:
        following = _table(table.pop("next"), "topology.next")
        file = replace(file, next=_cluster({**defaults, **following}, "topology.next", environ, folder))
    if table or ("topology" in content and file.next is None):
        file = replace(file, topology=_cluster({**defaults, **table}, "topology", environ, folder))
    else:
        file = replace(file, topology=shards.get(min(file.ids)))
    if file.next is not None and file.next == file.topology:
        raise SettingsError("topology.next: it is where the topology is kept anyway")
    return file


def _embedded(value: object, folder: Path) -> EmbeddedSettings:
    table = _table(value, "embedded")
    _refuse_unknown(table, ("data_dir", "shards"), "embedded")
    listed = table.get("shards")
    if not isinstance(listed, list) or not listed:
        raise SettingsError("embedded.shards: a list of at least one shard id")
    numbers = [_integer(number, "embedded.shards", 0, 2**31 - 1) for number in listed]
    return EmbeddedSettings(folder / _text(table.get("data_dir"), "embedded.data_dir"), frozenset(numbers))


def _refuse_shared(shards: Mapping[int, CassandraSettings]) -> None:
    places: dict[tuple[str, int, str], int] = {}
    for number, shard in shards.items():
        for point in shard.contact_points:
            other = places.setdefault((point, shard.port, shard.keyspace), number)
            if other != number:
                raise SettingsError(f"shards {other} and {number} are both keyspace {shard.keyspace!r} at {point}")


def _cluster(table: Mapping[str, object], where: str, environ: Mapping[str, str], folder: Path) -> CassandraSettings:
    _refuse_unknown(table, _KEYS, where)
    values = {key: check(table[key], f"{where}.{key}") for key, check in _PLAIN.items() if key in table}
    if "contact_points" not in values:
        raise SettingsError(f"{where}.contact_points: missing")
    settings = CassandraSettings(
        **values,  # type: ignore[arg-type]  # each was checked under its own name
        credentials=_credentials(table, where, environ, folder),
        tls=_tls(table["tls"], f"{where}.tls", folder) if "tls" in table else None,
    )
    copies = _replication(table.get("replication", 3), f"{where}.replication", settings.data_center)
    object.__setattr__(settings, "replication", copies)  # its shape depends on data_center
    if len(copies) > 1 and settings.consistency == "LOCAL_QUORUM" and settings.serial_consistency == "SERIAL":
        raise SettingsError(
            f"{where}.consistency: with several data centres, QUORUM goes with SERIAL, LOCAL_QUORUM with LOCAL_SERIAL "
            "(and then let the workers of one data centre alone write)"
        )
    return settings


def _credentials(
    table: Mapping[str, object], where: str, environ: Mapping[str, str], folder: Path
) -> Credentials | None:
    if "username" not in table:
        for key in ("password_env", "password_file"):
            if key in table:
                raise SettingsError(f"{where}.{key}: there is no username")
        return None
    username = _text(table["username"], f"{where}.username")
    if ("password_env" in table) == ("password_file" in table):
        raise SettingsError(f"{where}.username: needs either password_env or password_file")
    if "password_env" in table:
        name = _text(table["password_env"], f"{where}.password_env")
        if not environ.get(name):
            raise SettingsError(f"{where}.password_env: the environment has no {name}")
        return Credentials(username, environ[name])
    path = folder / _text(table["password_file"], f"{where}.password_file")
    try:
        password = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:  # the latter of what is no text, and of a name that no file can have
        raise SettingsError(f"{where}.password_file: {path} cannot be read") from error
    if not password:
        raise SettingsError(f"{where}.password_file: {path} is empty")
    return Credentials(username, password)


def _tls(value: object, where: str, folder: Path) -> Tls:
    table = _table(value, where)
    _refuse_unknown(table, ("ca_file", "cert_file", "key_file", "verify_host"), where)
    files: dict[str, str] = {}
    for key in ("ca_file", "cert_file", "key_file"):
        if key in table:
            path = folder / _text(table[key], f"{where}.{key}")
            if not _is_file(path):
                raise SettingsError(f"{where}.{key}: {path} is not a file")
            files[key] = str(path)
    if "ca_file" not in files:
        raise SettingsError(f"{where}.ca_file: missing")
    if ("cert_file" in files) != ("key_file" in files):
        raise SettingsError(f"{where}: cert_file and key_file come together")
    verify_host = table.get("verify_host", True)
    if not isinstance(verify_host, bool):
        raise SettingsError(f"{where}.verify_host: true or false")
    return Tls(**files, verify_host=verify_host)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # in a directory that may not be searched, or of a name that is too long
        return False


def _replication(value: object, where: str, data_center: str) -> Mapping[str, int]:
    if isinstance(value, dict):
        if data_center not in value:
            raise SettingsError(f"{where}: does not name data centre {data_center!r}")
        return {_data_center(name, where): _integer(n, f"{where}.{name}", 1, 7) for name, n in value.items()}
    return {data_center: _integer(value, where, 1, 7)}


def _contact_points(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise SettingsError(f"{where}: a list of at least one host name or address")
    return tuple(_host(point, where) for point in value)


def _host(value: object, where: str) -> str:
    text = _text(value, where)
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if not _HOST.fullmatch(text):
            raise SettingsError(f"{where}: {text!r} is no host name or address (ports go into port)") from None
    return text


def _keyspace(value: object, where: str) -> str:
    text = _text(value, where)
    if not _KEYSPACE.fullmatch(text):
        raise SettingsError(f"{where}: {text!r}; allowed are a lower case letter, then up to 47 of a-z, 0-9 and _")
    return text


def _data_center(value: object, where: str) -> str:
    text = _text(value, where)
    if not _DATA_CENTER.fullmatch(text):
        raise SettingsError(f"{where}: {text!r} is no name of a data centre")
    return text


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise SettingsError(f"{where}: a text")
    return value


def _table(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise SettingsError(f"{where}: a table")
    return value


def _integer(value: object, where: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise SettingsError(f"{where}: a whole number from {least} to {most}")
    return value


def _whole(least: int, most: int) -> Callable[[object, str], object]:
    return lambda value, where: _integer(value, where, least, most)


def _seconds(least: float, most: float) -> Callable[[object, str], object]:
    def check(value: object, where: str) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            raise SettingsError(f"{where}: seconds from {least} to {most}")
        return float(value)

    return check


def _one_of(allowed: tuple[str, ...]) -> Callable[[object, str], object]:
    def check(value: object, where: str) -> str:
        if value not in allowed:
            raise SettingsError(f"{where}: {value!r}; allowed are {', '.join(allowed)}")
        return str(value)

    return check


def _refuse_unknown(table: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key == "password":
            raise SettingsError(f"{where}.password: not in this file; name it by password_env or password_file")
        if key not in known:
            raise SettingsError(f"{where}: unknown key {key!r}; known are {', '.join(known)}")


_PLAIN: Final[Mapping[str, Callable[[object, str], object]]] = {
    "contact_points": _contact_points,
    "port": _whole(1, 65_535),
    "keyspace": _keyspace,
    "data_center": _data_center,
    "consistency": _one_of(CONSISTENCIES),
    "serial_consistency": _one_of(SERIAL_CONSISTENCIES),
    "driver": _one_of(DRIVERS),
    "lanes": _whole(1, LANES_MAX),
    "request_timeout_s": _seconds(0.1, 60),
    "speculative_delay_s": _seconds(0, 10),
    "batch_rows_max": _whole(1, 1_000),
    "batch_bytes_max": _whole(1_024, 8 * 1024 * 1024),
    "batches_in_flight_max": _whole(1, 256),
}
"""How each key without a partner is checked."""

_KEYS: Final = (*_PLAIN, "replication", "username", "password_env", "password_file", "tls")
