"""Command line: python -m centralized predict RUN INPUT [INPUT ...] --out DIR."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from core.commands import one_line_errors
from core.errors import UserError
from core.files import atomic_folder
from training.device import threads
from training.task import Samples
from training.trained import Trained, embedded, open_trained


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder of any setting")],
    inputs: Annotated[list[Path], typer.Argument(help="Files or folders with new data, in the format of the task")],
    out: Annotated[Path, typer.Option(help="Folder for the predictions, one below it per input")],
    model: Annotated[str, typer.Option(help="For a local run: the client whose model it is")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps")] = "auto",
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Write the vector of each sample, too")] = False,
) -> None:
    """Run a trained network over new data that needs no targets.

    What was fitted on training data (label map, scalers, features) comes from the run; data that does not fit it is
    refused. The training data may be gone.

    Written into DIR/INPUT are the files of the task, named at the end (predictions.csv, where docs/experiments.md lists
    no others), and with --embeddings embeddings.npy, [samples, width]. Where a sample cannot be used, none is written.

    Exit codes: 0 written, 2 input refused.
    """
    with one_line_errors():
        folders = _folders(inputs, out)
        trained = open_trained(run, model, device)
        opened = {path: trained.inputs(path) for path in inputs}
        written: list[Path] = []
        with threads(trained.options.threads), ExitStack() as stack:
            for path, samples in opened.items():
                folder = stack.enter_context(atomic_folder(folders[path]))
                files = _written(trained, samples, folder, embeddings)
                written += [folders[path] / file.relative_to(folder) for file in files]
        for file in written:
            print(file)


def _written(trained: Trained, samples: Samples, folder: Path, embeddings: bool) -> list[Path]:
    """Predict samples and write what comes of it into a folder; give the files."""
    answers = trained.answers(samples)
    vectors = [folder / "embeddings.npy"] if embeddings else []
    for file in vectors:
        answers = embedded(answers, file)
    return [*trained.task.write_answers(answers, folder, trained.fitted, trained.scores), *vectors]


def _folders(inputs: list[Path], out: Path) -> dict[Path, Path]:
    """Give each input a folder of its own.

    Raises:
        UserError: There are predictions already, or two inputs share a name.
    """
    folders: dict[Path, Path] = {}
    for path in inputs:
        whole = path.absolute()
        folder = out / (whole.name if path.is_dir() else whole.stem)
        if folder in folders.values():
            raise UserError(f"{path}: a second input called {folder.name}; predict it alone, with another --out")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: exists already; choose another --out")
        folders[path] = folder
    return folders
