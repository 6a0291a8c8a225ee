"""The commands as a user types them, run in this process."""

from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

import compare
from centralized.__main__ import app as centralized
from fl.__main__ import app as federated

COMMANDS = {
    "centralized": (centralized, ()),
    "fl": (federated, ("--engine", "inprocess")),
    "compare": (compare.app, ("--engine", "inprocess")),
}


def run(command: str, *arguments: str | Path) -> Result:
    app, engine = COMMANDS[command]
    return CliRunner().invoke(app, [*map(str, arguments), *engine], catch_exceptions=False)


def refused(result: Result, *expected: str) -> str:
    """Check that a command ended as it should on a mistake; give its one line."""
    assert result.exit_code == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for part in expected:
        assert part in line
    return line.removeprefix("error: ")
