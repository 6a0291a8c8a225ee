"""Command line: python -m centralized importance RUN INPUT --out DIR."""

import difflib
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from core.commands import one_line_errors
from core.errors import UserError
from core.progress import bar
from core.tables import write_table
from models.imputation.importance import importance as attribute
from training.device import threads
from training.loading import fetch
from training.trained import open_trained


class MethodName(StrEnum):
    """How an output is attributed to inputs."""

    integrated_gradients = "integrated_gradients"
    gradient_shap = "gradient_shap"
    deeplift = "deeplift"


class BaselineName(StrEnum):
    """What samples are compared with."""

    zero = "zero"
    mean = "mean"


def importance(
    run: Annotated[Path, typer.Argument(help="Run folder of any setting")],
    data: Annotated[Path, typer.Argument(metavar="INPUT", help="File with new samples, in the format of the task")],
    out: Annotated[Path, typer.Option(help="Folder for importance.csv")],
    method: Annotated[MethodName, typer.Option(help="How it is computed")] = MethodName.integrated_gradients,
    baseline: Annotated[
        BaselineName, typer.Option(help="What samples are compared with: zero in scaled units, or their own mean")
    ] = BaselineName.zero,
    steps: Annotated[int, typer.Option(min=1, help="Points from baseline to sample; deeplift needs none")] = 50,
    outputs: Annotated[
        list[str] | None, typer.Option(help="An output to attribute, several allowed; by default all")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the points of gradient_shap")] = 42,
    model: Annotated[str, typer.Option(help="For a local run: the client whose model it is")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps")] = "auto",
) -> None:
    """Say on which input features each predicted feature rests, by gradients of a trained network over new samples.

    Written is DIR/importance.csv: input features by output features, the median over the samples of the absolute
    attribution, in scaled units. With zscore, zero is the mean of the training samples. Training data may be gone.

    Exit codes: 0 written, 2 input refused.
    """
    with one_line_errors():
        path = out / "importance.csv"
        if path.exists():
            raise UserError(f"{path}: exists already; choose another --out")
        trained = open_trained(run, model, device)
        samples = trained.inputs(data)
        batch = {key: value.to(trained.device) for key, value in fetch(samples, range(len(samples))).items()}
        table = trained.task.table_to_table(trained.network, batch, trained.fitted)
        chosen = _places(table.outputs, outputs or [])
        table.network.requires_grad_(False)

        def watch(blocks: Sequence[Any]) -> Iterator[Any]:
            return bar(blocks, len(blocks), "importance")

        with threads(trained.options.threads):
            found = attribute(
                table.network, table.values, method.value, baseline.value, steps, seed, chosen, watch
            ).numpy()
        columns = {table.outputs[place]: found[:, at] for at, place in enumerate(chosen)}
        print(write_table(path, [{"input": np.asarray(table.inputs), **columns}]))


def _places(names: Sequence[str], asked: Sequence[str]) -> list[int]:
    """Find the outputs asked for."""
    for name in asked:
        if name not in names:
            like = difflib.get_close_matches(name, names, n=1) or names[:1]
            raise UserError(f"--outputs {name!r}: no output of the network; its {len(names)} have names like {like[0]}")
    return [names.index(name) for name in dict.fromkeys(asked or names)]
