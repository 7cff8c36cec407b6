"""A cluster's folder: whose it is, what was made in it, and who is working on it now."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.cluster.errors import ClusterError
from deploy.cluster.spec import ClusterSpec, SpecError

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Made:
    """What is recorded of a cluster."""

    spec: ClusterSpec
    """As it was last started."""
    rings_formed: int = 0
    """Shards, from the first, whose nodes have all met: from then on they may start in any order."""
    redis_formed: bool = False
    """Whether the Redis nodes have divided the slots; from then on they remember it themselves."""


class StateDirectory:
    """The folder of one cluster; a folder for each node stands in it."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path.absolute()
        self._record: Final = self.path / "cluster.json"

    def load(self) -> Made | None:
        """Returns what was made here, None when nothing was; raises ``ClusterError`` for a record it cannot read."""
        try:
            values = json.loads(self._record.read_text())
            if values["format"] != FORMAT:
                raise ClusterError(f"{self._record} has format {values['format']}, this code knows {FORMAT}")
            return Made(ClusterSpec.from_json(values["spec"]), values["rings_formed"], values["redis_formed"])
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError, SpecError) as error:
            raise ClusterError(f"{self._record} cannot be read: {error}") from error

    def save(self, made: Made) -> None:
        """Records what is made here, replacing the record whole."""
        values = {
            "format": FORMAT,
            "spec": made.spec.to_json(),
            "rings_formed": made.rings_formed,
            "redis_formed": made.redis_formed,
        }
        self.leave(self._record.name, json.dumps(values, indent=2) + "\n")

    def leave(self, name: str, text: str) -> None:
        """Puts a file into the folder, replacing one of that name whole."""
        fresh = self.path / f"{name}.new"
        fresh.write_text(text)
        fresh.replace(self.path / name)

    def wipe(self) -> None:
        """Removes the folder with all data, if a cluster was made in it: no other folder is ever removed."""
        if self.load() is not None:
            shutil.rmtree(self.path)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder if need be and holds it; raises ``ClusterError`` when another process does.

        Also when the folder has something else in it. The hold ends with the process, whatever ends that.
        """
        if self.load() is None and self.path.exists() and set(self.path.iterdir()) - {self.path / "lock"}:
            raise ClusterError(f"{self.path} is not empty and holds no cluster; choose another folder")
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ClusterError(f"another up or down is under way in {self.path}") from error
            yield
