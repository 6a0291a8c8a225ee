"""The commands as a user types them, run in this process, and the Ctrl-C that ends one early."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

import compare
from centralized.__main__ import app as centralized
from fl.__main__ import app as federated
from training.engine import Trainer

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


def interrupt(patch: pytest.MonkeyPatch, epoch: int) -> None:
    """Press Ctrl-C, once, when the training of this epoch begins, counted from 1 over all models and clients."""
    original, begun = Trainer.run_epoch, []

    def interrupted(self: Trainer, samples: Any, number: int) -> Any:
        begun.append(number)
        if len(begun) == epoch:
            raise KeyboardInterrupt
        return original(self, samples, number)

    patch.setattr(Trainer, "run_epoch", interrupted)
