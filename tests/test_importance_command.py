"""The importance command: a linear network in closed form, agreement with the library, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import Result

from models.imputation.importance import Method, importance
from tests.commands import refused as refused_command
from tests.commands import run as command
from tests.proteomics_studies import PAIRED, made, of_type, run
from tests.refusals import refused
from tests.toy_task import Points
from training.loading import fetch
from training.trained import open_trained

CLIENT = PAIRED[0]
LINEAR = {"model_type": "joint_vae", "latent_dim": 4, "encoder_layers": [], "decoder_layers": [], "dropout_rate": 0.0}


@pytest.fixture(scope="module")
def linear(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network is one matrix from platform to platform."""
    return run(tmp_path_factory.mktemp("linear") / "run", hospitals, "centralized", f"options.model={LINEAR}").folder


@pytest.fixture(scope="module")
def curved(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("curved") / "run", hospitals, "local", *of_type("joint_vae")).folder


def explain(folder: Path, data: Path, *options: str | Path) -> Result:
    return command("centralized", "importance", folder, data, *options)


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "importance.csv", index_col="input")


def scaled(folder: Path, data: Path, model: str = "") -> tuple[Any, torch.Tensor]:
    trained = open_trained(folder, model, "cpu")
    samples = trained.inputs(data)
    return trained, next(iter(fetch(samples, range(len(samples))).values()))


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_shap", "deeplift"])
@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_of_a_linear_network_it_is_weight_times_distance(
    linear: Path, hospitals: Path, tmp_path: Path, method: str, baseline: str
) -> None:
    data = hospitals / CLIENT / "platform_a.csv"
    steps = ["--steps", "3", "--baseline", baseline, "--method", method]
    done = explain(linear, data, "--out", tmp_path, *steps)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "importance.csv")
    trained, x = scaled(linear, data)
    with torch.no_grad():
        unit = torch.eye(x.shape[1])
        origin = trained.network.impute(torch.zeros_like(unit[:1]), "a", "b")
        weights = trained.network.impute(unit, "a", "b") - origin
    distance = (x - (x.mean(0) if baseline == "mean" else 0)).abs().numpy()
    expected = weights.abs().numpy() * np.median(distance, axis=0)[:, None]
    found = table(tmp_path)
    assert found.index.tolist() == list(trained.fitted.a.features)
    assert found.columns.tolist() == list(trained.fitted.b.features)
    np.testing.assert_allclose(found.to_numpy(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_shap", "deeplift"])
def test_it_is_what_the_library_says_for_the_outputs_asked_for(
    curved: Path, hospitals: Path, tmp_path: Path, method: Method
) -> None:
    data = hospitals / CLIENT / "platform_b.csv"
    trained, x = scaled(curved, data, CLIENT)
    names = [trained.fitted.a.features[place] for place in (3, 0)]
    options = ["--model", CLIENT, "--method", method, "--steps", "7", "--seed", "5"]
    asked = [word for name in names for word in ("--outputs", name)]
    done = explain(curved, data, "--out", tmp_path, *options, *asked)
    assert done.exit_code == 0, done.stderr
    found = table(tmp_path)
    assert found.columns.tolist() == names
    mapping = trained.task.table_to_table(trained.network, {"b": x}, trained.fitted)
    expected = importance(mapping.network, x, method, "zero", 7, 5)[:, [3, 0]]
    np.testing.assert_allclose(found.to_numpy(), expected.numpy(), rtol=1e-5, atol=1e-7)
    assert (found.to_numpy() > 0).any()


def test_training_data_may_be_gone(hospitals: Path, tmp_path: Path) -> None:
    data = made(tmp_path / "data")
    folder = run(tmp_path / "run", data, "centralized", f"options.model={LINEAR}").folder
    data.rename(tmp_path / "elsewhere")
    done = explain(folder, hospitals / CLIENT / "platform_a.csv", "--out", tmp_path / "out", "--steps", "1")
    assert done.exit_code == 0, done.stderr


def test_what_does_not_fit_is_refused(linear: Path, curved: Path, hospitals: Path, tmp_path: Path) -> None:
    data = hospitals / CLIENT / "platform_a.csv"
    refused_command(explain(linear, tmp_path / "none.csv", "--out", tmp_path), "none.csv")
    refused_command(explain(curved, data, "--out", tmp_path), "--model")
    first = open_trained(linear, "", "cpu").fitted.b.features[0]  # type: ignore[attr-defined]
    asked = explain(linear, data, "--out", tmp_path, "--outputs", f"{first}x")
    refused_command(asked, f"--outputs '{first}x'", f"names like {first}")
    (tmp_path / "importance.csv").write_text("mine")
    refused_command(explain(linear, data, "--out", tmp_path), "importance.csv: exists already")
    assert (tmp_path / "importance.csv").read_text() == "mine"


def test_a_task_without_tables_is_refused() -> None:
    task = Points(data=Path("none"))
    refused(
        lambda: task.table_to_table(torch.nn.Identity(), {}, task.Fitted(mean=[], deviation=[])), "Points", "no table"
    )


def test_attributions_that_do_not_add_up_are_told_with_the_figure() -> None:
    def jumps(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([(x.sum(1) > 0).to(x) + 0 * x.sum(1)], dim=1)

    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="integrated_gradients miss the change of an output by 0.[0-9]+ on average"):
        importance(jumps, x)


def test_a_single_sample_is_not_compared_with_its_own_mean() -> None:
    x = torch.ones(1, 4)
    refused(lambda: importance(lambda rows: rows, x, baseline="mean"), "a single sample is its own mean")


def test_a_deep_network_takes_fewer_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) / 4

    def deep(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x) if x.requires_grad else 0)
        for _ in range(50):
            x = torch.tanh(x @ weight + x)
        return x

    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    whole = importance(deep, x, steps=5)
    assert max(sizes) == 30
    sizes.clear()
    monkeypatch.setattr("models.imputation.importance.GRAPH_BYTES", 50 * 4 * 4 * 2 * 8)
    parts = importance(deep, x, steps=5)
    assert 2 <= max(sizes) <= 16
    torch.testing.assert_close(parts, whole)
