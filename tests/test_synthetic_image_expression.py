"""The made-up tissue: the real format, looks that drive expression, sites that differ, and one silent gene."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from core.columns import defined_mean, mse_by_column, spearman_by_column
from datasets.synthetic.image_expression import N_GENES, draw_tile, make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made") / "study"
    make(made)
    return made


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metadata.csv", dtype={"group_id": str})


def test_the_format_is_the_real_one(folder: Path, table: pd.DataFrame) -> None:
    assert list(table)[:3] == ["path", "group_id", "site"]
    assert list(table)[3:] == [f"y{gene}" for gene in range(N_GENES)]
    assert len((folder / "genes.txt").read_text().split()) == N_GENES
    assert table["path"].is_unique and all((folder / path).is_file() for path in table["path"])
    assert (folder / table["path"][0]).open("rb").read(4) == b"\x89PNG"
    assert table["group_id"][0] == "000" and table.groupby("group_id")["site"].nunique().eq(1).all()
    assert table.groupby("site")["group_id"].nunique().tolist() == [10] * 4
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 4e6


def test_one_gene_is_silent_and_the_others_are_not(table: pd.DataFrame) -> None:
    spread = table[[f"y{gene}" for gene in range(N_GENES)]].std()
    assert spread.iloc[-1] == 0 and (spread.iloc[:-1] > 0.05).all()


def features(folder: Path, table: pd.DataFrame) -> np.ndarray:
    """Mean, deviation and fine texture of each colour."""
    rows = []
    for path in table["path"]:
        pixels = np.asarray(Image.open(folder / path), np.float64)
        steps = np.abs(np.diff(pixels, axis=0)).mean(axis=(0, 1))
        rows.append(
            [
                *pixels.mean(axis=(0, 1)),
                *pixels.std(axis=(0, 1)),
                *steps,
                *np.percentile(pixels, [5, 20], (0, 1)).ravel(),
            ]
        )
    return np.asarray(rows)


def test_the_look_of_tiles_predicts_expression_and_all_sites_together_better(folder: Path, table: pd.DataFrame) -> None:
    looks, expression = features(folder, table), table.iloc[:, 3:].to_numpy()
    outside = (table["site"] == "hospital_east").to_numpy()

    def scores(trained_on: np.ndarray) -> tuple[float, float]:
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 3, 6)))
        predicted = model.fit(looks[trained_on], expression[trained_on]).predict(looks[outside])
        correlation = defined_mean(spearman_by_column(expression[outside], predicted))
        return correlation, float(mse_by_column(expression[outside], predicted).mean())

    sites = sorted(set(table["site"]) - {"hospital_east"})
    alone = np.mean([scores((table["site"] == site).to_numpy()) for site in sites], axis=0)
    pooled = scores(~outside)
    assert pooled[0] > 0.75 and pooled[0] > alone[0] + 0.02
    assert pooled[1] < 0.95 * alone[1]


def test_each_statistic_shows() -> None:
    gain, middle = np.ones(3), np.full(4, 0.5)

    def drawn(place: int, value: float) -> np.ndarray:
        look = middle.copy()
        look[place] = value
        return np.mean([draw_tile(look, gain, 48, np.random.default_rng(n)) for n in range(5)], axis=0, dtype=float)

    few, many = drawn(0, 0.0), drawn(0, 1.0)
    assert few[..., 0].mean() > many[..., 0].mean() + 10  # Nuclei take red, which eosin lets through.
    assert drawn(1, 0.0)[..., 1].mean() > drawn(1, 1.0)[..., 1].mean() + 30
    assert drawn(3, 0.0)[..., 2].mean() > drawn(3, 1.0)[..., 2].mean() + 20
    plain, fibrous = (draw_tile(np.r_[0, 0.5, value, 0.5], gain, 48, np.random.default_rng(0)) for value in (0.0, 1.0))
    assert fibrous[..., 1].std() > plain[..., 1].std() + 10
