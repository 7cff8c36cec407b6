"""The command: ``python -m server`` serves; ``backup``, ``restore`` and ``export`` look after the data.

Serving, it checks everything that can be checked first, takes the data directory, and becomes the supervisor: the same
process, with another program in it, which has imported nothing of what workers need.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, NoReturn, TypeVar

import typer

from server.config import ENVIRON_PREFIX, Config, ConfigError, load, settings
from server.processes import ExitCode, Launch
from server.worker import storage_settings
from shards import assembly
from shards.contract import StoreError

_CONFIG_VARIABLE: Final = ENVIRON_PREFIX + "CONFIG"

_NOTES: Final = f"""
Defaults stand in brackets. Every setting is also an environment variable, such as {ENVIRON_PREFIX}DATA_DIR, and a
key of the TOML file, such as data_dir. A flag wins over the variable, that over the file.

Signals: HUP restarts the workers one after the other without a failed call; TERM and INT drain, and the second of them
stops at once.

Exit codes:
"""

_EPILOG: Final = "\n\n".join(
    [
        *(" ".join(paragraph.split()) for paragraph in _NOTES.split("\n\n")),
        *(f"{code.value}  {code.text}" for code in ExitCode),
    ]
)

_OF_STORAGE: Final = tuple(name for name, (setting, _) in settings().items() if setting.panel == "Storage")

app: Final = typer.Typer(add_completion=False, rich_markup_mode="rich")

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


def _become_supervisor(config: Config) -> NoReturn:
    try:
        lock_fd = assembly.prepare(storage_settings(config))
    except StoreError as error:
        _refuse(error, ExitCode.STORE_REFUSED)
    environ = Launch(config=config, lock_fd=lock_fd).environ(os.environ)
    os.execve(sys.executable, [sys.executable, "-m", "server.supervisor"], environ)  # noqa: S606  # no shell is meant


def _load(config: Path | None, flags: Mapping[str, object]) -> Config:
    path = config or (Path(os.environ[_CONFIG_VARIABLE]) if _CONFIG_VARIABLE in os.environ else None)
    try:
        return load(flags, os.environ, path)
    except ConfigError as error:
        _refuse(error, ExitCode.USAGE)


def _refuse(error: Exception, code: ExitCode) -> NoReturn:
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    app(prog_name="python -m server")
