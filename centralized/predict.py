"""Command line: python -m centralized predict RUN INPUT [INPUT ...] --out DIR."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands import one_line_errors
from core.errors import UserError
from training.trained import open_trained


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder of any setting")],
    inputs: Annotated[list[Path], typer.Argument(help="Files or folders with new data, in the format of the task")],
    out: Annotated[Path, typer.Option(help="Folder for the predictions, one below it per input")],
    model: Annotated[str, typer.Option(help="For a local run: the client whose model it is")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps")] = "auto",
) -> None:
    """Run a trained network over new data that needs no targets.

    What was fitted on training data (label map, scalers, features) comes from the run; data that does not fit it is
    refused. Exit codes: 0 written, 2 input refused.
    """
    with one_line_errors():
        trained = open_trained(run, model, device)
        opened = {path: trained.task.inputs(path, trained.fitted) for path in inputs}
        folders = _folders(inputs, out)
        for path, samples in opened.items():
            written = trained.task.write_answers(trained.answers(samples), folders[path], trained.fitted)
            for file in written:
                print(file)


def _folders(inputs: list[Path], out: Path) -> dict[Path, Path]:
    """Give each input a folder of its own.

    Raises:
        UserError: There are predictions already, or two inputs share a name.
    """
    folders = {path: out / path.name.split(".")[0] for path in inputs}
    if len(set(folders.values())) < len(inputs):
        raise UserError(f"INPUT: two inputs share the name {inputs[0].name}; give each its own --out")
    for folder in folders.values():
        if folder.exists():
            raise UserError(f"{folder}: exists already; choose another --out")
    return folders
