"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add(commands: Commands, name: str, summary: str, more: str = "") -> argparse.ArgumentParser:
    """Add a command. Its own help also has ``more``."""
    return commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {more}".strip())


def add_name(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the name of an experiment."""
    text = "experiment: its name, or the path of its folder, such as results/tiny"
    command.add_argument("name", metavar="NAME", nargs=None if required else "?", help=text)
    add_results_folder(command)


def add_results_folder(command: argparse.ArgumentParser) -> None:
    """Add the folder of results."""
    command.add_argument(
        "--results", type=Path, metavar="FOLDER", help="folder that a NAME is in (default: results); results=FOLDER also works"
    )


def add_output(command: argparse.ArgumentParser) -> None:
    """Add what is shown, and the log file."""
    command.add_argument("--quiet", action="store_true", help="show only the final table and errors")
    command.add_argument("--log-file", type=Path, metavar="FILE", help="append everything that is shown to this file, with times")


def add_json(command: argparse.ArgumentParser) -> None:
    """Add JSON as output."""
    command.add_argument("--json", action="store_true", help="print JSON")


def add_trust(command: argparse.ArgumentParser) -> None:
    """Add trust in task files of any folder."""
    command.add_argument("--trust-tasks", action="store_true", help="run task files and code from any folder (docs/security.md)")


def add_overrides(command: argparse.ArgumentParser, text: str) -> None:
    """Add overrides in Hydra's syntax."""
    arguments: dict[str, Any] = {"nargs": "*", "default": [], "metavar": "key=value"}
    command.add_argument("overrides", help=text, **arguments)
    command.set_defaults(takes_overrides=True)
