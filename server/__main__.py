"""The command: ``python -m server`` serves; ``backup``, ``restore`` and ``export`` look after the data.

Serving, it checks everything that can be checked first, takes the data directory, and becomes the supervisor: the same
process, with another program in it, which has imported nothing of what workers need.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, BinaryIO, Final, NoReturn, TypeVar

import typer

from server.app.jsonl import json_line
from server.config import ENVIRON_PREFIX, Config, ConfigError, load, settings
from server.domain.errors import OrderError
from server.processes import ExitCode, Launch
from server.transport.tls import TlsError
from server.transport.tls import read as read_certificates
from server.worker import storage_settings, tls_files
from shards import assembly
from shards.contract import StoreError

_CONFIG_VARIABLE: Final = ENVIRON_PREFIX + "CONFIG"

_NOTES: Final = f"""
Defaults stand in brackets. Every setting is also an environment variable, such as {ENVIRON_PREFIX}DATA_DIR, and a
key of the TOML file, such as data_dir. A flag wins over the variable, that over the file.

Signals: HUP restarts the workers one after the other, and callers that balance by health see no error; TERM and INT
drain, and the second of them stops at once.

Exit codes:
"""

_EPILOG: Final = "\n\n".join(
    [
        *(" ".join(paragraph.split()) for paragraph in _NOTES.split("\n\n")),
        *(f"{code.value}  {code.text}" for code in ExitCode),
    ]
)

_WHICH_DATA: Final = ("store", "data_dir")

app: Final = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

CommandT = TypeVar("CommandT", bound=Callable[..., None])


def _takes_settings(names: Iterable[str]) -> Callable[[CommandT], CommandT]:
    """Gives a command an option for each setting in place of its ``**flags``; None stands for one not given."""

    def give(command: CommandT) -> CommandT:
        parameters = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "flags"]
        defaults = Config()
        for name in names:
            setting, kind = settings()[name]
            default = getattr(defaults, name)
            flag = "--" + name.replace("_", "-")
            option = typer.Option(
                f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
                help=setting.text + (f" [dim]\\[{default}][/dim]" if str(default) else ""),
                rich_help_panel=setting.panel,
                show_default=False,
                metavar="|".join(setting.choices) or None,
            )
            annotation = Annotated[kind | None, option]  # type: ignore[valid-type]  # known at run time only
            parameters.append(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            )
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect looks for
        return command

    return give


ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file with settings.", metavar="FILE", show_default=False)
]


@app.callback(invoke_without_command=True, epilog=_EPILOG)
@_takes_settings(settings())
def serve(context: typer.Context, config: ConfigFile = None, **flags: object) -> None:
    """Crest, a gRPC order service. Without a command it serves until told to stop."""
    context.obj = (config, flags)
    if context.invoked_subcommand is None:
        _become_supervisor(_load(config, flags))


Directory = Annotated[Path, typer.Argument(metavar="DIR", show_default=False)]


@app.command()
@_takes_settings(_WHICH_DATA)
def backup(context: typer.Context, target: Directory, config: ConfigFile = None, **flags: object) -> None:
    """Copy all orders into the new directory DIR; the server may run meanwhile."""
    storage = storage_settings(_load_beside(context, config, flags))
    with _refusing():
        count = assembly.backup(storage, target)
    typer.echo(f"{count} orders of {storage.data_dir} are in {target}", err=True)


@app.command()
@_takes_settings(_WHICH_DATA)
def restore(context: typer.Context, source: Directory, config: ConfigFile = None, **flags: object) -> None:
    """Check the backup DIR and make a new data directory of it."""
    storage = storage_settings(_load_beside(context, config, flags))
    with _refusing():
        count = assembly.restore(storage, source)
    typer.echo(f"{count} orders of {source} are in {storage.data_dir}", err=True)


@app.command()
@_takes_settings(_WHICH_DATA)
def export(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(metavar="FILE|-", show_default=False)],
    config: ConfigFile = None,
    **flags: object,
) -> None:
    """Write all orders into FILE, or for - to standard output, one a line as JSON; the server may run meanwhile."""
    storage = storage_settings(_load_beside(context, config, flags))
    with _refusing():
        if str(target) == "-":
            count = _write_orders(storage, sys.stdout.buffer)
        else:
            partial = target.with_name(target.name + ".partial")
            with partial.open("wb") as file:
                count = _write_orders(storage, file)
            partial.replace(target)  # so that a file of that name is a complete one
    typer.echo(f"{count} orders of {storage.data_dir}", err=True)


def _write_orders(storage: assembly.StorageSettings, file: BinaryIO) -> int:
    count = 0
    for row in assembly.iterate_rows(storage):
        file.write(json_line(row))
        count += 1
    file.flush()
    return count


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Turns what an operator can mend into one line and an exit code."""
    try:
        yield
    except (
        assembly.TopologyFileWrong
    ) as error:  # a settings file, too: the code that python -m shards.schema has for it
        _refuse(error, ExitCode.USAGE)
    except (StoreError, OrderError) as error:
        _refuse(error, ExitCode.STORE_REFUSED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains on its way out
        raise typer.Exit(ExitCode.DEFECT) from None
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}" if error.filename else error, ExitCode.USAGE)


def _load_beside(context: typer.Context, config: Path | None, flags: Mapping[str, object]) -> Config:
    """Returns the settings of a command: its own options win over those before its name."""
    outer_config, outer_flags = context.obj
    given = {name: value for name, value in flags.items() if value is not None}
    return _load(config or outer_config, {**outer_flags, **given})


def _become_supervisor(config: Config) -> NoReturn:
    files = tls_files(config)
    if files is not None:
        try:
            read_certificates(files)
        except TlsError as error:
            _refuse(error, ExitCode.USAGE)
    with _refusing():
        lock_fd = assembly.prepare(storage_settings(config))
    environ = Launch(config=config, lock_fd=lock_fd).environ(os.environ)
    os.execve(sys.executable, [sys.executable, "-m", "server.supervisor"], environ)  # noqa: S606  # no shell is meant


def _load(config: Path | None, flags: Mapping[str, object]) -> Config:
    path = config or (Path(os.environ[_CONFIG_VARIABLE]) if _CONFIG_VARIABLE in os.environ else None)
    try:
        return load(flags, os.environ, path)
    except ConfigError as error:
        _refuse(error, ExitCode.USAGE)


def _refuse(error: Exception | str, code: ExitCode) -> NoReturn:
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    app(prog_name="python -m server")
