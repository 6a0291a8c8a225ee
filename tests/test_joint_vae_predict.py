"""New samples on one platform: what a finished proteomics run says of the other, in units of the data."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks._joint_vae_scaling import Scaling
from tests.commands import refused
from tests.conftest import Finished
from tests.proteomics_studies import MODELS, ONE_PLATFORM, PAIRED, WITH_LATENT, of_type, run, without
from tests.trained_runs import predict

pytestmark = pytest.mark.filterwarnings("ignore:.*left out")
NORTH = PAIRED[0]
OTHER = {"a": "b", "b": "a"}


@pytest.fixture(scope="module")
def finished(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run(tmp_path_factory.mktemp("finished") / "run", hospitals, "federated", "train.lr=0.01")


def stored(done: Finished, model: str = "federated") -> dict[str, np.ndarray]:
    with np.load(done.folder / "predictions" / f"{model}__{NORTH}.npz") as file:
        return {key: file[key] for key in file}


def new_samples(hospitals: Path, platform: str, names: list[str], path: Path) -> Path:
    """Write test samples of one platform as new ones, in this order."""
    table = pd.read_csv(hospitals / NORTH / f"platform_{platform}.csv", dtype=str, keep_default_na=False).set_index(
        "sample"
    )
    table.loc[names].to_csv(path)
    return path


def answer(done: Finished, path: Path, out: Path, *arguments: str) -> pd.DataFrame:
    result = predict(done.folder, path, "--out", out, *arguments)
    assert result.exit_code == 0, result.stderr
    return pd.read_csv(out / path.stem / "imputed.csv").set_index("sample")


def expected(done: Finished, source: str, model: str = "federated", suffix: str = "") -> pd.DataFrame:
    """Give the predictions that the run has stored of the test samples, back in units of the data."""
    scaling, kept = Scaling.model_validate(done.json(f"model_final{suffix}")), stored(done, model)
    target = scaling.of(OTHER[source])
    values = target.inverse(kept[f"cross_{OTHER[source]}"].astype(np.float64))
    return pd.DataFrame(values, index=kept["sample"], columns=target.features)


def same(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    assert found.index.tolist() == wanted.index.tolist() and found.columns.tolist() == wanted.columns.tolist()
    np.testing.assert_allclose(found.to_numpy(), wanted.to_numpy(), rtol=1e-5)


@pytest.mark.parametrize("source", ["a", "b"])
def test_either_platform_is_imputed_as_the_run_has_stored_it(
    hospitals: Path, finished: Finished, tmp_path: Path, source: str
) -> None:
    wanted = expected(finished, source)
    path = new_samples(hospitals, source, wanted.index.tolist(), tmp_path / "new.csv")
    assert pd.read_csv(path).isna().any(axis=None) or source == "b", "missing cells are filled by what was fitted"
    same(answer(finished, path, tmp_path / "out"), wanted)


def test_order_further_columns_and_company_do_not_matter(hospitals: Path, finished: Finished, tmp_path: Path) -> None:
    wanted = expected(finished, "a")
    names = wanted.index.tolist()
    table = pd.read_csv(new_samples(hospitals, "a", names, tmp_path / "new.csv"), dtype=str, keep_default_na=False)
    table = table[["sample", *reversed(table.columns[1:].tolist())]].assign(more="7", sex="female")
    table[::-1].to_csv(tmp_path / "turned.csv", index=False)
    same(answer(finished, tmp_path / "turned.csv", tmp_path / "turned"), wanted[::-1])
    table[:1].drop(columns="donor").to_csv(tmp_path / "one.tsv", index=False, sep="\t")
    same(answer(finished, tmp_path / "one.tsv", tmp_path / "one"), wanted[:1])


def test_missing_cells_are_filled_with_what_was_fitted(hospitals: Path, finished: Finished, tmp_path: Path) -> None:
    name = expected(finished, "b").index[:1].tolist()
    table = pd.read_csv(new_samples(hospitals, "b", name, tmp_path / "new.csv"), dtype={"sample": str})
    fitted = Scaling.model_validate(finished.json("model_final")).b
    empty, full = table.copy(), table.copy()
    for feature in ("aptamer_03", "aptamer_31"):
        empty[feature], full[feature] = "", fitted.fill[fitted.features.index(feature)]
    for label, one in (("empty", empty), ("full", full)):
        one.to_csv(tmp_path / f"{label}.csv", index=False)
    found = [answer(finished, tmp_path / f"{label}.csv", tmp_path / label) for label in ("empty", "full")]
    same(*found)


def test_latent_space_and_quality_stand_beside(hospitals: Path, finished: Finished, tmp_path: Path) -> None:
    names = expected(finished, "a").index.tolist()
    path = new_samples(hospitals, "a", names, tmp_path / "new.csv")
    answer(finished, path, tmp_path / "out", "--embeddings")
    latent = pd.read_csv(tmp_path / "out" / "new" / "latent.csv").set_index("sample")
    quality = pd.read_csv(tmp_path / "out" / "new" / "quality.csv")
    width = latent.shape[1]
    assert latent.index.tolist() == names and latent.columns.tolist() == [f"latent_dim_{n + 1}" for n in range(width)]
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "new" / "embeddings.npy"), latent.to_numpy(np.float32))
    likelihood = -0.5 * (latent.to_numpy() ** 2 + np.log(2 * np.pi)).sum(axis=1)
    by_name = quality.set_index(quality.columns[0]).loc[names]
    np.testing.assert_allclose(by_name["log_likelihood"], likelihood, rtol=1e-5)
    assert (by_name["reconstruction_error"] > 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_every_type_imputes_new_samples(hospitals: Path, tmp_path: Path, name: str) -> None:
    data = without(hospitals, ONE_PLATFORM, tmp_path / "pairs") if name == "res_unet" else hospitals
    # Without a logarithm, since chains of a network that has hardly trained end far out.
    options = [*of_type(name), "options.preparation={}", "federation.rounds=1"]
    done = run(tmp_path / "run", data, "centralized", *options)
    wanted = expected(done, "a", "centralized")
    path = new_samples(hospitals, "a", wanted.index.tolist(), tmp_path / "new.csv")
    same(answer(done, path, tmp_path / "out"), wanted)
    assert (tmp_path / "out" / "new" / "latent.csv").exists() is (name in WITH_LATENT)


def test_a_local_model_of_one_client(hospitals: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "run", hospitals, "local", "federation.rounds=1")
    wanted = expected(done, "b", NORTH, f".{NORTH}")
    path = new_samples(hospitals, "b", wanted.index.tolist(), tmp_path / "new.csv")
    same(answer(done, path, tmp_path / "out", "--model", NORTH), wanted)


def test_draws_average_to_about_the_mean_and_say_how_sure_it_is(hospitals: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "run", hospitals, "centralized", "federation.rounds=1", "options.n_samples=200")
    wanted = expected(done, "a", "centralized")
    path = new_samples(hospitals, "a", wanted.index.tolist(), tmp_path / "new.csv")
    found = answer(done, path, tmp_path / "out")
    assert not np.allclose(found, wanted, rtol=1e-5)
    assert np.corrcoef(np.log(found).to_numpy().ravel(), np.log(wanted).to_numpy().ravel())[0, 1] > 0.9
    sure = pd.read_csv(tmp_path / "out" / "new" / "confidence.csv").set_index("sample")
    assert sure.index.equals(found.index) and sure.columns.equals(found.columns)
    assert sure.to_numpy().min() > 0 and sure.to_numpy().max() < 1
    # A mean of 200 draws is off by 1/14 of their deviation, and somewhat more since networks are not linear.
    shares = np.abs(np.log(found) - np.log(wanted)).to_numpy() / -np.log(sure.to_numpy())
    assert 0.03 < np.median(shares) < 0.3


def test_new_samples_that_cannot_be_used(hospitals: Path, finished: Finished, tmp_path: Path) -> None:
    names = expected(finished, "a").index.tolist()
    table = pd.read_csv(new_samples(hospitals, "a", names, tmp_path / "new.csv"), dtype=str, keep_default_na=False)
    other = pd.read_csv(hospitals / NORTH / "platform_b.csv", dtype=str, keep_default_na=False)
    cases = {
        "lacking": (table.drop(columns="antibody_11"), "feature 'antibody_11' of platform a is missing"),
        "twice": (pd.concat([table, table[:1]]), "occurs more than once"),
        "text": (table.assign(antibody_02="high"), "antibody_02 = 'high' is no number"),
        "foreign": (table[["sample"]].assign(x="1"), "feature 'antibody_01' of platform a is missing, and 39 more"),
        "both": (table.merge(other.drop(columns="donor"), on="sample"), "its features are those of both platforms"),
    }
    for name, (rows, said) in cases.items():
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
        refused(predict(finished.folder, tmp_path / f"{name}.csv", "--out", tmp_path / "out"), f"{name}.csv", said)
    shutil.copy(tmp_path / "both.csv", tmp_path / "platform_b.csv")
    found = answer(finished, tmp_path / "platform_b.csv", tmp_path / "named")
    assert found.columns[0] == "antibody_01"
