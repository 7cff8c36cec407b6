"""The command line: ``orders`` are its commands, ``show`` its tables, ``session`` what every command shares."""

from clients.cli.orders import app


def main() -> None:
    """Runs the command that the process was started with."""
    app(prog_name="python -m clients")


__all__ = ["main"]
