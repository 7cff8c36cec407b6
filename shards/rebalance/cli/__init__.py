"""The operator's command line: ``app`` are its commands, ``show`` what they print, ``forms`` the same as JSON."""

from shards.rebalance.cli.app import app


def main() -> None:
    """Runs the command that the process was started with."""
    app(prog_name="python -m shards.rebalance")


__all__ = ["main"]
