"""Proteomics data and options that cannot be used: one line and exit code 2, before anything trains."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.commands import refused
from tests.commands import run as command
from tests.proteomics_studies import CONFIG, ONE_PLATFORM, SHORT, of_type

NORTH, SOUTH, WEST = "hospital_north", "hospital_south", "hospital_west"
Spoil = Callable[[Path], object]


def changed(client: str, platform: str, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> Spoil:
    """Change the table of a client's platform, cells as text."""

    def act(folder: Path) -> None:
        path = folder / client / f"platform_{platform}.csv"
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        result = change(table)
        (table if result is None else result).to_csv(path, index=False)

    return act


def cell(at: int, column: str, value: str) -> Callable[[pd.DataFrame], None]:
    def change(table: pd.DataFrame) -> None:
        table.loc[at, column] = value

    return change


def emptied(folder: Path) -> None:
    for path in folder.glob("*/platform_a.csv"):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        table["antibody_07"] = ""
        table.to_csv(path, index=False)


def swapped(folder: Path) -> None:
    own = folder / SOUTH
    (own / "platform_a.csv").rename(own / "other.csv")
    (own / "platform_b.csv").rename(own / "platform_a.csv")
    (own / "other.csv").rename(own / "platform_b.csv")


def few(folder: Path) -> None:
    """Leave one client three donors, of which one trains."""
    for platform in "ab":
        path = folder / SOUTH / f"platform_{platform}.csv"
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        table.sort_values("sample").drop_duplicates("donor").to_csv(path, index=False)
    tables = {p: pd.read_csv(folder / SOUTH / f"platform_{p}.csv", dtype=str, keep_default_na=False) for p in "ab"}
    shared = sorted(set(tables["a"]["sample"]) & set(tables["b"]["sample"]))[:3]
    for platform, table in tables.items():
        table[table["sample"].isin(shared)].to_csv(folder / SOUTH / f"platform_{platform}.csv", index=False)


def nothing(folder: Path) -> None:
    """Leave the data as it is: an option is wrong."""


MODEL = "options.model={model_type: joint_vae, latent_dim: 4"
DATA: dict[str, tuple[Spoil, list[str]]] = {
    "id twice": (
        changed(NORTH, "a", lambda table: pd.concat([table, table[:1]])),
        [f"{NORTH}/platform_a.csv", "sample", "occurs more than once"],
    ),
    "no shared id": (
        changed(WEST, "b", lambda table: table.assign(sample="x" + table["sample"])),
        [f"{WEST}/platform_a.csv", "shares no id with platform_b.csv"],
    ),
    "text in a cell": (
        changed(NORTH, "b", cell(3, "aptamer_05", "low")),
        [f"{NORTH}/platform_b.csv", "row 'N0", "aptamer_05 = 'low' is no number"],
    ),
    "feature without a value": (emptied, ["feature 'antibody_07' has no value in any row", "drop the column"]),
    "files swapped": (swapped, [SOUTH, "holds the features of platform b, not a; swap the two files"]),
    "one train sample": (few, [f"client '{SOUTH}' has 1 train sample, 2 are needed", "model.batch_norm"]),
    "no donor": (
        changed(NORTH, "a", lambda table: table.drop(columns="donor")),
        [NORTH, "donor"],
    ),
    "no pair": (
        lambda folder: [shutil.rmtree(folder / name) for name in (NORTH, SOUTH, WEST)],
        ["no client has platform b; give"],
    ),
}
OPTIONS: dict[str, tuple[list[str], list[str]]] = {
    "epsilon is text": (["options.preparation.epsilon=tiny"], ["options.preparation.epsilon = 'tiny'", "valid number"]),
    "epsilon without logarithm": (
        ["options.preparation={epsilon: 0.1}"],
        ["epsilon has no effect here; set log_a or log_b"],
    ),
    "error of quantiles without any": (
        ["options.preparation.quantile_error=0.01"],
        ["quantile_error has no effect here; set missing_value_strategy: median"],
    ),
    "fractions": (["options.fractions=[0.8,0.1,0.2]"], ["options.fractions", "sum 1"]),
    "fractions beside a split": (["options.split=split.csv", "options.fractions=[0.6,0.2,0.2]"], ["leave out split"]),
    "given without a file": (["options.preparation.normalization_scope=given"], ["give both or neither"]),
    "logarithm beside what is given": (
        ["options.preparation={normalization_scope: given, given: a.json, log_a: true}"],
        ["log_a has no effect here; the given file says"],
    ),
    "no given file": (["options.preparation={normalization_scope: given, given: a.json}"], ["a.json", "no such file"]),
    "activation": ([f"{MODEL}, activation: rellu}}"], ["activation = 'rellu': unknown; did you mean relu?"]),
    "model type": (["options.model.model_type=joint_vea"], ["'joint_vea': unknown; did you mean joint_vae?"]),
    "key of the model": ([f"{MODEL}, droput_rate: 0.1}}"], ["droput_rate: unknown key; did you mean dropout_rate?"]),
    "key of the loss": (
        ["options.loss_weights={cross_reconstrution: 1}"],
        ["cross_reconstrution: unknown key; did you mean cross_reconstruction?"],
    ),
    "key of the training": (
        ["options.training={data_augmentation: {enabled: true, gaussian_noise: 1}}"],
        ["gaussian_noise: unknown key; did you mean gaussian_noise_std?"],
    ),
    "weight is text": (["options.loss_weights={kl_divergence: small}"], ["kl_divergence = 'small'", "valid number"]),
    "key of the task": (["options.unit_kee=donor"], ["options.unit_kee: unknown key; did you mean unit_key?"]),
    "pairs needed": (
        of_type("res_unet"),
        [f"client '{ONE_PLATFORM}' trains on platform a without any pair", "model_type res_unet learns from pairs"],
    ),
    "unpaired samples of a direct mapping": (
        ["options.model={model_type: res_unet}", "options.loss_weights={}", "options.training={}"],
        ["keep_unpaired has no effect here; model_type res_unet learns from pairs"],
    ),
    "draws without a posterior": (
        [*of_type("JointVQ"), "options.n_samples=3"],
        ["n_samples has no effect here; model_type JointVQ has no posterior"],
    ),
    "held-out client": (["options.held_out_client=nobody"], ["nobody"]),
    "batches of one": (["train.batch_size=1"], ["a training batch of 1 sample", "model.batch_norm"]),
    "plateau with fresh optimizers": (["train.schedule=plateau"], ["set federation.optimizer_state to kept"]),
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_cannot_be_used(hospitals: Path, tmp_path: Path, name: str) -> None:
    spoil, expected = DATA[name]
    folder = Path(shutil.copytree(hospitals, tmp_path / "study"))
    spoil(folder)
    for setting in ("centralized", "fl"):
        arguments = [CONFIG, f"options.data={folder}", *SHORT, "--results", tmp_path / setting]
        refused(command(setting, *arguments), *expected)
        assert not list((tmp_path / setting).rglob("history.json"))


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_cannot_be_used(hospitals: Path, tmp_path: Path, name: str) -> None:
    overrides, expected = OPTIONS[name]
    arguments = [CONFIG, f"options.data={hospitals}", *SHORT, *overrides, "--results", tmp_path / "results"]
    refused(command("fl", *arguments), *expected)


def test_a_number_may_be_written_as_yaml_reads_it_as_text(hospitals: Path, tmp_path: Path) -> None:
    """PyYAML takes 1e-6 for text."""
    small = [
        "options.preparation.epsilon=1e-6",
        "options.loss_weights={kl_divergence: 1e-4}",
        *of_type("joint_vae")[:1],
    ]
    arguments = [CONFIG, f"options.data={hospitals}", *SHORT, *small, "--dry-run", "--results", tmp_path / "results"]
    done = command("centralized", *arguments)
    assert done.exit_code == 0, done.stderr


def test_a_loss_that_is_no_number_stops_the_run_and_says_where(hospitals: Path, tmp_path: Path) -> None:
    overrides = [*of_type("joint_vae"), "train.optimizer=sgd", "train.lr=1e6", "train.clip_grad_norm=null"]
    arguments = [CONFIG, f"options.data={hospitals}", *SHORT, *overrides, "--results", tmp_path / "results"]
    done = command("centralized", *arguments)
    assert done.exit_code == 1
    for part in ("in epoch ", "recon_loss nan", "cross_loss nan", "lower train.lr"):
        assert part in done.stderr, done.stderr
