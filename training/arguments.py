"""What commands share on their command lines, said once."""

from pathlib import Path
from typing import Annotated

import typer

from training.checkpoints import Acceptable

Config = Annotated[Path, typer.Argument(help="Experiment, e.g. configs/nicheformer.yaml")]
ConfigOrResume = Annotated[Path | None, typer.Argument(help="Experiment, e.g. configs/nicheformer.yaml")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value, e.g. train.lr=0.01 seed=7")]
Resume = Annotated[Path | None, typer.Option(help="Go on with this run folder")]
Accept = Annotated[
    list[Acceptable] | None,
    typer.Option("--accept", help="With --resume: go on although this is not what it was; may be given twice"),
]
Name = Annotated[str, typer.Option(help="Name of the run folder; by default setting, seed and time")]
Results = Annotated[Path, typer.Option(help="Where results go")]
OneExperiment = Annotated[str, typer.Option(help="One of the `experiments` of CONFIG, in a place of its own")]
AllExperiments = Annotated[bool, typer.Option("--all", help="All of them in turn, and a summary")]
Split = Annotated[Path | None, typer.Option(help="Go on only if the data splits as this file says")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Two batches of everything")]
