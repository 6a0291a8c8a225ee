"""What a hyperparameter search must not do: judge by other samples, or go on where the data has changed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

import tune
from tests.commands import refused as refused_command
from tests.conftest import TOY
from tests.proteomics_studies import CONFIG, SHORT, of_type
from tests.refusals import refused
from training.search_space import Space

pytestmark = pytest.mark.filterwarnings("ignore:.*left out")


def called(folder: Path, config: Path, space: dict[str, Any], *words: str) -> Result:
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    arguments = [config, folder / "space.yaml", *words, "--results", folder / "results", "--engine", "inprocess"]
    return CliRunner().invoke(tune.app, [*map(str, arguments)], catch_exceptions=False)


@pytest.mark.parametrize(
    "key",
    [
        "options.split_seed",
        "options.fractions",
        "options.split",
        "options.unit_key",
        "options.held_out_client",
        "options.partition.clients",
        "options.partition",
        "options",
        "options.data",
        "options.preparation.missing_value_strategy",
    ],
)
def test_which_samples_are_judged_is_not_searched_for(tmp_path: Path, key: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump({key: {"choices": [1, 2]}}))
    refused(lambda: Space.read(path), f"space.yaml: {key}: belongs to the question")


def test_the_smallest_weights_do_not_win_a_search_for_the_smallest_loss(hospitals: Path, tmp_path: Path) -> None:
    space = {"options.loss_weights.reconstruction": {"low": 0.1, "high": 1.0}}
    data = [f"options.data={hospitals}"]
    answer = called(tmp_path, CONFIG, space, *data, "train.monitor=loss")
    refused_command(answer, "options.loss_weights.reconstruction: changes what the loss is")


def test_a_study_does_not_go_on_with_other_data(hospitals: Path, tmp_path: Path) -> None:
    study = Path(shutil.copytree(hospitals, tmp_path / "study", ignore=shutil.ignore_patterns(".cache")))
    space = {"train.lr": {"low": 1e-3, "high": 1e-2}}
    words = [
        f"options.data={study}",
        "options.compare_with=[]",
        "options.spearman=false",
        *SHORT,
        *of_type("joint_vae"),
    ]
    assert called(tmp_path, CONFIG, space, *words, "--trials", "1").exit_code == 0
    shutil.rmtree(study / "hospital_west")
    refused_command(called(tmp_path, CONFIG, space, *words, "--trials", "2"), "basis.json: data: ")


def test_local_trials_count_the_clients_that_hold_pairs(hospitals: Path, tmp_path: Path) -> None:
    space = {"train.lr": {"low": 1e-3, "high": 1e-2}}
    words = [f"options.data={hospitals}", "options.compare_with=[]", "options.spearman=false", *SHORT]
    answer = called(tmp_path, CONFIG, space, *words, *of_type("joint_vae"), "--setting", "local", "--trials", "1")
    assert answer.exit_code == 0 and "completed: cross_corr_mean" in answer.stdout


def test_the_toy_experiment_may_search_for_the_loss(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(TOY))
    space = {"train.lr": {"low": 1e-3, "high": 1e-2}}
    answer = called(tmp_path, tmp_path / "toy.yaml", space, "train.monitor=loss", "--trials", "1")
    assert answer.exit_code == 0, answer.output
