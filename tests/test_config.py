from pathlib import Path

import pytest
import yaml

from core.errors import UserError
from training.config import load, to_yaml

ROOT = Path(__file__).resolve().parent.parent


def write(folder: Path, name: str, **values: object) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump({"task": "tests.toy_task", "options": {"data": "x"}, **values}))
    return path


def test_defaults_then_base_then_file_then_overrides(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", train={"lr": 0.5, "batch_size": 7, "threads": 2}, seed=1)
    path = write(tmp_path, "top.yaml", base="base.yaml", train={"batch_size": 9, "accumulate": 3})
    experiment = load(path, ["train.accumulate=4"])
    train = experiment.train
    assert (train.lr, train.batch_size, train.accumulate, train.threads) == (0.5, 9, 4, 2)
    assert (experiment.seed, train.eval_batch_size) == (1, 256)


def test_written_config_loads_to_an_equal_one(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", train={"optimizer": {"name": "sgd", "momentum": 0.5}})
    experiment = load(path, ["federation.strategy={name: fedadam, eta: 0.3}", "train.schedule=cosine"])
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(experiment))
    assert load(again) == experiment


def test_a_name_stands_for_an_option_block(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", federation={"strategy": "fedprox"})
    assert load(path, ["federation.strategy.proximal_mu=0.7"]).federation.strategy.proximal_mu == 0.7
    assert load(path, ["train.optimizer=sgd"]).train.optimizer.name == "sgd"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.bach_size=3"], "train.bach_size: unknown key; did you mean batch_size?"),
        (["train.batch_size=0"], "train.batch_size = 0: Input should be greater than or equal to 1"),
        (["train.optimizer.momentum=0.9"], "momentum: unknown key"),
        (["options.hiden=3"], "options.hiden: unknown key; did you mean hidden?"),
        (["federation.strategy=fedsgd"], "federation.strategy"),
        (["task=nothing"], "task = 'nothing': no such task"),
        (["nonsense"], "not of the form section.key=value"),
        (["train.lr=[1"], "not valid YAML"),
        (["seed=-1"], "seed = -1"),
        (["train.device=gpu"], "train.device = 'gpu'"),
    ],
)
def test_mistakes_are_refused_in_one_line(tmp_path: Path, overrides: list[str], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, "a.yaml"), overrides)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: [", "not valid YAML"),
        ("just text", "no `key: value` lines"),
        ("base: b.yaml", "b.yaml: no such file; check the path"),
        ("base: .", "cannot read this file"),
        ("", "holds"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=expected):
        load(path)


def test_a_circle_of_bases_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", base="b.yaml")
    with pytest.raises(UserError, match="circle"):
        load(write(tmp_path, "b.yaml", base="a.yaml"))


def test_relative_paths_start_from_the_given_root(tmp_path: Path) -> None:
    assert load(write(tmp_path, "a.yaml"), root=tmp_path).options["data"] == str(tmp_path / "x")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_loads(path: Path) -> None:
    experiment = load(path)
    assert experiment.task == path.stem
    assert (ROOT / "tasks" / f"{experiment.task}.py").exists()
