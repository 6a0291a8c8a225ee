"""Imputation without a network on a pair of platforms: what a joint autoencoder has to beat.

    python -m benchmarks.proteomics_baselines FOLDER [--train 0.6 --val 0.1 --test 0.3 --seed 42]

`FOLDER` holds `platform_a.csv` and `platform_b.csv`, the first column of each the id of the sample. Samples found in
both, in the order of their ids, are split by two shuffles (test from all, then validation from the rest); missing
values and scales come from the training samples. Printed are, over the test samples, the mean correlation per feature
and the R2 over all values, both in standardised units. `knn, k = 10` weighs neighbours by inverse distance;
`knn, chosen` takes neighbours and kernel by cross-validation on the training samples.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import typer
from rich.console import Console
from rich.table import Table
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from core.commands import one_line_errors
from core.errors import UserError
from models.imputation.baseline import Baseline, Matrix, Platform
from models.imputation.knn import Knn, Neighbourhood
from models.imputation.ridge import Ridge
from models.imputation.wnn import Wnn
from training.imputation import ImputationScores

Places = npt.NDArray[np.intp]
BASELINES: dict[str, Baseline] = {
    "ridge": Ridge(),
    "knn, k = 10": Knn([Neighbourhood(10, "distance")]),
    "knn, chosen": Knn(),
    "wnn": Wnn(),
}


def read(folder: Path) -> dict[Platform, pd.DataFrame]:
    """Read both platforms and keep the samples they share, sorted by id."""
    frames: dict[Platform, pd.DataFrame] = {}
    for platform in ("a", "b"):
        path = folder / f"platform_{platform}.csv"
        if not path.is_file():
            raise UserError(f"{path}: no such file; give a folder with platform_a.csv and platform_b.csv")
        frame = pd.read_csv(path)
        frames[platform] = frame.set_index(frame[frame.columns[0]].astype(str)).iloc[:, 1:]
        repeated = frames[platform].index[frames[platform].index.duplicated()]
        if len(repeated):
            raise UserError(f"{path}: sample {repeated[0]!r} comes more than once; give one row per sample")
    shared = sorted(set(frames["a"].index) & set(frames["b"].index))
    return {platform: frame.loc[shared] for platform, frame in frames.items()}


def split(count: int, train: float, val: float, test: float, seed: int) -> tuple[Places, Places]:
    """Give the places of training and test samples."""
    rest, tested = train_test_split(np.arange(count), test_size=test, random_state=seed)
    trained, _ = train_test_split(rest, test_size=val / (train + val), random_state=seed)
    return trained, tested


def scores(baseline: Baseline, trained: dict[Platform, Matrix], tested: dict[Platform, Matrix]) -> dict[str, float]:
    """Fit, impute both ways, and score."""
    baseline.fit(trained["a"], trained["b"])
    predicted = {
        "cross_a": torch.from_numpy(baseline.impute(tested["b"], "b", "a")),
        "cross_b": torch.from_numpy(baseline.impute(tested["a"], "a", "b")),
    }
    metric = ImputationScores(tested["a"].shape[1], tested["b"].shape[1], parts=list(predicted))
    metric.update(predicted, torch.from_numpy(tested["a"]), torch.from_numpy(tested["b"]))
    return {name: float(value) for name, value in metric.compute().items() if value.ndim == 0}


def main(
    folder: Path,
    train: Annotated[float, typer.Option(help="Fraction of samples")] = 0.6,
    val: Annotated[float, typer.Option(help="Fraction of samples, which no baseline needs")] = 0.1,
    test: Annotated[float, typer.Option(help="Fraction of samples")] = 0.3,
    seed: Annotated[int, typer.Option(help="Of the split")] = 42,
) -> None:
    """Print the scores of every baseline in both directions."""
    with one_line_errors():
        frames = read(folder)
    places = split(len(frames["a"]), train, val, test, seed)
    trained: dict[Platform, Matrix] = {}
    tested: dict[Platform, Matrix] = {}
    for platform, frame in frames.items():
        scaler = make_pipeline(SimpleImputer(), StandardScaler())
        trained[platform] = scaler.fit_transform(frame.iloc[places[0]].to_numpy())
        tested[platform] = scaler.transform(frame.iloc[places[1]].to_numpy())
    rows = f"{len(places[0])} training and {len(places[1])} test samples"
    table = Table("baseline", "r A|B", "r B|A", "R2 A|B", "R2 B|A", "seconds", title=rows)
    for name, baseline in BASELINES.items():
        started = time.perf_counter()
        found = scores(baseline, trained, tested)
        columns = [f"{found[f'cross_{p}_{score}']:.3f}" for score in ("corr_mean", "r2") for p in ("a", "b")]
        table.add_row(name, *columns, f"{time.perf_counter() - started:.1f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
