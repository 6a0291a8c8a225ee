"""Many experiments in one file: how they are merged, refused, run, left alone, resumed, run anew, and summed up."""

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from click.testing import Result
from typer.testing import CliRunner

from fl.client_app import app as client_app
from fl.inprocess import InProcessGrid
from fl.server import serve
from reports.__main__ import app as reports
from reports.experiment_summary import summarise
from tasks.__main__ import app as tasks
from tests.commands import COMMANDS, interrupt, refused, run
from tests.conftest import TOY
from tests.refusals import refused as refused_call
from tests.run_folders import edit, write_run
from tests.toy_task import SIZES, Points
from training.config import experiment_names, load, to_yaml
from training.experiments import read_entries
from training.runs import Run
from training.session import run_name

SHORT = {**TOY, "federation": {"rounds": 1}}
TWO = [
    {"name": "base", "description": "As published"},
    {"name": "fast", "description": "Ten times the rate", "overrides": {"train": {"lr": 0.2}}},
]
SETTINGS = {"centralized": "centralized", "fl": "federated", "compare": "compare"}
EVERY = pytest.mark.parametrize("command", COMMANDS)


def write(path: Path, experiments: Any = TWO, **values: Any) -> Path:
    path.write_text(yaml.safe_dump({**SHORT, **values, "experiments": experiments}))
    return path


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return write(tmp_path / "many.yaml")


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have tests of their own; here they are made without pictures, which take most of the time."""
    monkeypatch.setattr("reports.report.plots", lambda comparison: {})


def ask(app: typer.Typer, *words: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)


class Places:
    """The results of one setting: a folder with a place for each experiment."""

    def __init__(self, config: Path, command: str) -> None:
        self.config, self.command = config, command
        self.results = config.parent / "results"
        self.folder = self.results / "toy_task" / "many" / SETTINGS[command]

    def call(self, *words: str, code: int = 0) -> Any:
        answer = run(self.command, self.config, *words, "--results", self.results)
        assert answer.exit_code == code, answer.output
        return answer

    def done(self, answer: Any) -> dict[str, str]:
        """What the table says was done, by experiment."""
        lines = [line.split("  ") for line in answer.stdout.splitlines() if line.startswith(" ")]
        cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
        return {line[0]: line[1] for line in cells if len(line) > 1 and line[0] in ("base", "fast", "third")}

    def stamps(self, name: str) -> dict[str, tuple[int, str]]:
        """Time and content of every file of an experiment."""
        files = [path for path in (self.folder / name).rglob("*") if path.is_file()]
        assert files
        return {
            str(path.relative_to(self.folder / name)): (
                path.stat().st_mtime_ns,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for path in files
        }

    def json(self, name: str, file: str) -> Any:
        return json.loads((self.folder / name / f"{file}.json").read_text())

    @property
    def summary(self) -> list[dict[str, str]]:
        with (self.folder / "experiment_summary.csv").open(newline="") as stream:
            return list(csv.DictReader(stream))


# The file


def test_defaults_base_file_experiment_and_overrides_in_this_order(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", [{"name": "one"}], train={"lr": 0.5, "threads": 2, "batch_size": 7}, seed=1)
    overrides = {"train": {"batch_size": 9, "accumulate": 3}, "seed": 3, "options": {"hidden": 5}}
    top = {"base": "base.yaml", "train": {"batch_size": 8}, "experiments": [{"name": "two", "overrides": overrides}]}
    path = tmp_path / "top.yaml"
    path.write_text(yaml.safe_dump(top))
    chosen = load(path, ["train.accumulate=4"], experiment="two")
    train = chosen.train
    assert (train.eval_batch_size, train.lr, train.batch_size, train.accumulate) == (256, 0.5, 9, 4)
    assert (chosen.seed, chosen.options["hidden"], chosen.experiment, train.threads) == (3, 5, "two", 2)
    plain = load(path)
    assert (plain.train.batch_size, plain.seed, plain.experiment) == (8, 1, "")
    assert experiment_names(path) == ["one", "two"]


def test_an_experiment_of_the_same_name_is_laid_over_that_of_the_base(tmp_path: Path) -> None:
    first = {"name": "a", "description": "Old", "overrides": {"train": {"lr": 0.1, "accumulate": 2}, "seed": 5}}
    write(tmp_path / "base.yaml", [first, {"name": "b"}])
    again = {"name": "a", "overrides": {"train": {"lr": 0.3}}}
    path = tmp_path / "top.yaml"
    path.write_text(yaml.safe_dump({"base": "base.yaml", "experiments": [{"name": "c"}, again]}))
    chosen = load(path, experiment="a")
    assert (chosen.train.lr, chosen.train.accumulate, chosen.seed, chosen.description) == (0.3, 2, 5, "Old")
    assert experiment_names(path) == ["a", "b", "c"]


def test_a_block_of_another_name_replaces_the_one_below_and_one_of_the_same_is_merged(tmp_path: Path) -> None:
    below = {"optimizer": {"name": "sgd", "momentum": 0.5}, "schedule": "cosine", "lr": 0.1}
    above = {"optimizer": {"name": "adam"}, "schedule": {"min_lr": 0.01}}
    experiments = [
        {"name": "other", "overrides": {"train": above}},
        {"name": "same", "overrides": {"train": {"optimizer": {"nesterov": True}}}},
    ]
    path = write(tmp_path / "a.yaml", experiments, train=below)
    other, same = (load(path, experiment=name).train for name in ("other", "same"))
    assert (other.optimizer.name, other.schedule.name, other.schedule.min_lr) == ("adam", "cosine", 0.01)
    assert (same.optimizer.name, same.optimizer.momentum, same.optimizer.nesterov) == ("sgd", 0.5, True)


def test_the_name_is_recorded_and_changes_nothing(many: Path, tmp_path: Path) -> None:
    plain, base, fast = load(many), load(many, experiment="base"), load(many, experiment="fast")
    assert plain.digest == base.digest != fast.digest
    assert (base.experiment, base.description) == ("base", "As published")
    assert "experiment" not in yaml.safe_load(to_yaml(plain)) and "description" not in yaml.safe_load(to_yaml(plain))
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(fast))
    assert load(again) == fast
    assert run_name(fast, "federated").startswith("federated__fast__bs8x1x1__lr0.2__seed42__")


LISTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "empty": ([], ("experiments: empty; list one or more",)),
    "nothing": (None, ("experiments: empty",)),
    "a mapping": ({"a": 1}, ("experiments: a dict; list one or more of {name, description, overrides}",)),
    "a text in it": (["a"], ("experiments.0 = 'a': not of the form {name, description, overrides}",)),
    "no name": ([{"description": "x"}], ("experiments.0.name: missing; add it",)),
    "a number as name": ([{"name": 3}], ("experiments.0.name = 3", "valid string")),
    "a path as name": ([{"name": "../a"}], ("experiment ../a: experiments.0.name = '../a'", "no plain file name")),
    "a hidden file": ([{"name": ".a"}], ("no plain file name",)),
    "a space": ([{"name": "a b"}], ("experiments.0.name = 'a b'", "no plain file name (letters, digits, _ . + -)")),
    "reserved": ([{"name": "superseded"}], ("name = 'superseded': reserved",)),
    "twice": ([{"name": "a"}, {"name": "b"}, {"name": "a"}], ("experiments: the name 'a' occurs twice; rename one",)),
    "unknown key": (
        [{"name": "a", "overides": {}}],
        ("experiment a: experiments.0.overides", "did you mean overrides?"),
    ),
    "unknown section": (
        [{"name": "a"}, {"name": "b", "overrides": {"trian": {}}}],
        ("experiment b: experiments.1.overrides.trian: unknown key; did you mean train?",),
    ),
    "another task": (
        [{"name": "a", "overrides": {"task": "vgg3d"}}],
        ("overrides.task: unknown key; an experiment can change: options, train, federation, seed",),
    ),
}


@pytest.mark.parametrize("listed", [pytest.param(value, id=name) for name, value in LISTS.items()])
def test_lists_that_cannot_be_used(tmp_path: Path, listed: tuple[Any, tuple[str, ...]]) -> None:
    path = write(tmp_path / "a.yaml", listed[0])
    refused_call(lambda: load(path), str(path), *listed[1])
    refused_call(lambda: read_entries(listed[0], "a.yaml"), *listed[1])


@EVERY
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"train": {"lrr": 1}}, "train.lrr: unknown key; did you mean lr?"),
        ({"options": {"hiden": 1}}, "options.hiden: unknown key; did you mean hidden?"),
        ({"train": {"lr": 0}}, "train.lr = 0: Input should be greater than 0"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_a_mistake_in_one_experiment_is_found_before_any_runs(
    tmp_path: Path, command: str, overrides: dict[str, Any], expected: str
) -> None:
    path = write(tmp_path / "many.yaml", [*TWO, {"name": "third", "overrides": overrides}])
    results = tmp_path / "results"
    refused(run(command, path, "--all", "--results", results), f"{path}, experiment third: {expected}")
    assert not results.exists()


@EVERY
def test_options_that_contradict_each_other(many: Path, toy: Path, command: str) -> None:
    nearest = "experiment 'fsat': no such experiment; did you mean fast?"
    refused(run(command, many, "--experiment", "fsat"), f"{many}: ", nearest)
    refused(run(command, toy, "--experiment", "fast"), f"{toy}: ", "'fast': no such experiment; the file lists no")
    refused(run(command, toy, "--all"), f"{toy}: --all: lists no experiments; add `experiments:` or leave out --all")
    refused(run(command, many, "--all", "--experiment", "fast"), "--all: runs every experiment; leave out --experiment")
    refused(run(command, many, "--all", "--resume", "x"), "--resume x: goes on", "leave out --experiment and --all")
    refused(run(command, many, "experiment=fast"), "names an experiment without choosing it; use --experiment NAME")
    chosen = write(many.parent / "chosen.yaml", experiment="fast")
    refused(run(command, chosen), f"{chosen}: experiment: chosen with --experiment NAME; remove the key")


# The places


@EVERY
def test_a_second_call_does_nothing(many: Path, command: str) -> None:
    places = Places(many, command)
    first = places.call("--all")
    assert places.done(first) == {"base": "run", "fast": "run"}
    before = [places.stamps(name) for name in ("base", "fast", ".")]
    assert places.done(places.call("--all")) == {"base": "left alone", "fast": "left alone"}
    assert [places.stamps(name) for name in ("base", "fast", ".")] == before


@EVERY
def test_one_experiment_that_changed_runs_anew_and_the_old_one_is_kept(many: Path, command: str) -> None:
    places = Places(many, command)
    places.call("--all")
    base, fast = places.stamps("base"), places.stamps("fast")
    digest = load(many, ["seed=0"] if command == "compare" else [], experiment="fast").digest
    changed = {**TWO[1], "overrides": {"train": {"lr": 0.3}}}
    write(many, [{**TWO[0], "description": "Said otherwise"}, changed, {"name": "third"}])
    answer = places.call("--all")
    assert places.done(answer) == {"base": "left alone", "fast": "run anew", "third": "run"}
    assert f"config or data have changed; what was here is now {places.folder}/superseded/fast-" in answer.stdout
    assert places.stamps("base") == base
    assert places.stamps(f"superseded/fast-{digest[:8]}") == fast
    rates = {(row["experiment_name"], row["learning_rate"]) for row in places.summary}
    assert rates == {("base", "0.02"), ("fast", "0.3"), ("third", "0.02")}


def test_going_back_and_forth_keeps_every_run(many: Path) -> None:
    places = Places(many, "centralized")
    for rate in ("0.1", "0.2", "0.1", "0.2"):
        places.call("--experiment", "base", f"train.lr={rate}")
    kept = sorted(path.name.partition("-")[2][8:] for path in (places.folder / "superseded").iterdir())
    assert kept == ["", "", "-2"]


@pytest.mark.parametrize("command", ["centralized", "fl"])
def test_other_data_is_another_run(many: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places(many, command)
    places.call("--all")
    digest = Points.data_digest
    monkeypatch.setattr(Points, "data_digest", lambda self, client: f"{digest(self, client)}, edited")
    answer = places.call("--all")
    assert places.done(answer) == {"base": "run anew", "fast": "run anew"}
    assert len(list((places.folder / "superseded").iterdir())) == 2
    assert places.json("base", "manifest")["data"]["ada"].endswith(", edited")


@pytest.mark.parametrize("command", ["centralized", "fl"])
def test_an_interrupted_experiment_is_resumed_and_the_rest_follows(
    many: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(many, command)
    longer = ["train.epochs=6", "federation.rounds=2"]
    with monkeypatch.context() as patch:
        interrupt(patch, epoch=5)
        answer = places.call("--all", *longer, code=130)
    assert places.done(answer) == {"base": "run", "fast": "not begun"}
    assert places.json("base", "status")["status"] == "failed"
    trained = places.json("base", "history")["steps"][0]
    assert places.done(places.call("--all", *longer)) == {"base": "resumed", "fast": "run"}
    assert places.json("base", "history")["steps"][0] == trained
    assert run(command, many, *longer, "--results", places.results, "--name", "straight").exit_code == 0
    straight = json.loads((places.results / "toy_task" / "straight" / "manifest.json").read_text())
    assert places.json("base", "manifest")["weights_sha256"] == straight["weights_sha256"]


def test_one_that_fails_does_not_stop_the_others_and_the_worst_code_remains(many: Path) -> None:
    failing = {"name": "base", "overrides": {"options": {"failing": "bob"}}}
    refusing = {"name": "third", "overrides": {"options": {"failing": "refused"}}}
    write(many, [failing, refusing, TWO[1]], options={**SHORT["options"], "names": ["ada", "bob", "refused"]})
    places = Places(many, "centralized")
    answer = places.call("--all", code=1)
    assert [row["status"] for row in places.summary] == ["failed", "completed", "failed"]
    first, second = answer.stderr.splitlines()
    assert "the disk of this client is broken" in first and "points.csv: column x is missing; add it" in second
    assert places.done(places.call("--experiment", "fast"))["fast"] == "left alone"


def test_degraded_is_worse_than_completed_and_better_than_refused(many: Path) -> None:
    failing = {"options": {"failing": "bob"}, "federation": {"min_clients": 2}}
    write(many, [{"name": "base", "overrides": failing}, TWO[1]])
    places = Places(many, "fl")
    assert places.done(places.call("--all", code=3)) == {"base": "run", "fast": "run"}
    assert places.done(places.call("--all", code=3)) == {"base": "left alone", "fast": "left alone"}
    refusing = {"name": "third", "overrides": {"federation": {"strategy": {"name": "krum", "num_malicious_nodes": 1}}}}
    write(many, [{"name": "base", "overrides": failing}, refusing])
    places.call("--all", code=2)


def test_name_replaces_the_stem_and_a_dry_run_has_a_folder_of_its_own(many: Path) -> None:
    places = Places(many, "centralized")
    places.call("--experiment", "fast", "--name", "mine", "--setting", "local")
    places.call("--experiment", "fast", "--dry-run")
    toy_task = places.results / "toy_task"
    found = sorted(path.parent.relative_to(toy_task).as_posix() for path in toy_task.rglob("status.json"))
    assert found == ["dry-run__many/centralized/fast", "mine/local/fast"]


def test_a_comparison_of_more_seeds_keeps_those_it_has(many: Path) -> None:
    places = Places(many, "compare")
    places.call("--experiment", "base", "--seeds", "1")
    before = {name: stamp for name, stamp in places.stamps("base").items() if name.startswith("local-seed1/")}
    answer = places.call("--experiment", "base", "--seeds", "1", "--seeds", "2")
    assert places.done(answer)["base"] == "resumed"
    after = places.stamps("base")
    assert before and {name: after[name] for name in before} == before
    assert [(row["setting"], row["seed"]) for row in places.summary] == [
        (setting, seed) for setting in ("centralized", "federated", "local") for seed in ("1", "2")
    ]


# The split


def expected_split() -> str:
    """The SHA-256 as the manifest is documented to hold it, put together here once more."""
    held = {
        f"{client}/{split}": {
            "point": sorted(
                hashlib.sha256(json.dumps(["point", f"{client}-{split}-{number}"]).encode()).hexdigest()[:20]
                for number in range(count)
            )
        }
        for client in ("ada", "bob", "cyd")
        for split, count in SIZES.items()
    }
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def test_every_setting_records_the_same_split_and_the_experiment(many: Path) -> None:
    places = Places(many, "compare")
    places.call("--experiment", "fast")
    manifests = [json.loads(path.read_text()) for path in places.folder.rglob("manifest.json")]
    assert len(manifests) == 3
    for manifest in manifests:
        assert (manifest["experiment"], manifest["description"]) == ("fast", "Ten times the rate")
        assert manifest["split_sha256"] == expected_split()


def test_a_server_that_is_shown_hashes_only_records_the_same_split(study: Path, tmp_path: Path) -> None:
    tiny = {"dim_model": 16, "nheads": 2, "dim_feedforward": 16, "nlayers": 1, "context_length": 16}
    options = {"data": str(study), "unit_key": "library_key", "random_backbone": tiny}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"task": "nicheformer", "options": options, "federation": {"rounds": 1}}))
    shared = Run.create(tmp_path / "shared", load(path), "federated")
    serve(shared, InProcessGrid(client_app, nodes=1), 1)
    names = shared.experiment.build_task().clients()
    grid = InProcessGrid(client_app, nodes=len(names))
    for context, client in zip(grid.contexts.values(), names, strict=True):
        own = tmp_path / client
        shutil.copytree(study / "clients" / client, own / "clients" / client)
        shutil.copytree(study / "reference", own / "reference")
        context.node_config["data"] = str(own)
    deployed = Run.create(tmp_path / "deployed", load(path), "federated")
    serve(deployed, grid, len(names))
    first, second = (json.loads((run.folder / "manifest.json").read_text()) for run in (shared, deployed))
    assert len(first["split_sha256"]) == 64
    assert first["split_sha256"] == second["split_sha256"]


@EVERY
def test_a_split_is_written_and_runs_are_held_to_it(many: Path, command: str) -> None:
    out = many.parent / "split.json"
    answer = ask(tasks, "split", many, "--experiment", "fast", "--out", out)
    assert (answer.exit_code, answer.stdout) == (0, f"split {expected_split()[:12]}: {out}\n")
    content = json.loads(out.read_text())
    assert content["split_sha256"] == expected_split()
    assert content["samples"] == {"train": 120, "val": 45, "test": 60}
    assert content["clients"]["bob"]["val"]["point"] == sorted(f"bob-val-{number}" for number in range(15))
    places = Places(many, command)
    places.call("--experiment", "fast", "--split", str(out))
    plain = [many, "--split", out, "--results", places.results, "--name"]
    assert run(command, *plain, "plain").exit_code == 0
    said = f"{out}: the data splits otherwise now: point 'cyd-test-0' was in cyd/test (and 74 more); restore data"
    refused(run(command, *plain, "other", "options.names=[ada,bob]"), said)
    assert said in places.call("--experiment", "fast", "--split", str(out), "options.names=[ada,bob]", code=2).stderr
    content["clients"]["bob"]["val"]["point"][0] = "bob-val-99"
    out.write_text(json.dumps(content))
    refused(run(command, *plain, "other"), f"{out}: split_sha256 is not that of the ids there; make the file anew")
    out.write_text("[]")
    refused(run(command, *plain, "other"), f"{out}: holds no split; make it with `python -m tasks split`")
    assert not (places.results / "toy_task" / "other").exists()


def test_a_task_that_names_nobody_has_no_split(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Points, "identities", lambda self, client: {})
    out = many.parent / "split.json"
    refused(ask(tasks, "split", many, "--out", out), "task = 'tests.toy_task': names no samples")
    assert not out.exists()
    places = Places(many, "centralized")
    places.call("--experiment", "base")
    assert places.json("base", "manifest")["split_sha256"] is None
    assert places.summary[0]["split_sha256"] == ""


# The summary


def test_the_summary_by_hand(tmp_path: Path) -> None:
    train = {"lr": 0.01, "batch_size": 8, "epochs": None}
    config = {"experiment": "b", "description": "Two\nlines, one comma", "train": train}
    first = write_run(tmp_path / "b", "centralized", 0, config=config, manifest={"split_sha256": "ab" * 32})
    best = {"epoch": 2, "lr": 0.01, "train_loss": 0.3, "val_loss": 0.5, "val_f1_macro": None, "val_accuracy": 0.4}
    (first / "metrics.json").write_text(json.dumps({"best": best, "last": best}))
    running = write_run(
        tmp_path / "a", "federated", 1, evaluated=False, status={"status": "running"},
        config={"experiment": "a", "train": train},
    )  # fmt: skip
    assert not (running / "manifest.json").exists()
    write_run(tmp_path / "superseded" / "b-12345678", "centralized", 0, config=config)
    assert summarise(tmp_path) == tmp_path / "experiment_summary.csv"
    head, *lines = (tmp_path / "experiment_summary.csv").read_text().splitlines()
    assert head == (
        "experiment_name,description,setting,learning_rate,num_epochs,batch_size,total_parameters,device,best_step,"
        "step_unit,best_val_loss,best_val_accuracy,best_val_f1_macro,test_loss,test_accuracy,test_f1_macro,"
        "split_sha256,seed,wall_time_s,status,run_folder"
    )
    rows = list(csv.reader(lines))
    assert rows[0] == [*["a", "", "federated", "0.01", "4", "8"], *[""] * 11, "1", "", "running", "a"]
    # 26 of 30 samples right: 9 of ada's, 8 of bob's, 9 of cyd's 10.
    assert rows[1][:13] == [
        *["b", "Two lines, one comma", "centralized", "0.01", "4", "8", "100", "cpu", "2", "epoch", "0.5", "0.4", ""]
    ]
    assert [float(value) for value in rows[1][13:15]] == pytest.approx([4 / 30, 26 / 30])
    assert rows[1][16:] == ["ab" * 32, "0", "2.0", "completed", "b"]


def test_numbers_of_the_summary_are_those_of_the_run(many: Path) -> None:
    places = Places(many, "fl")
    places.call("--all", "federation.rounds=2", "federation.local_epochs=2")
    row = places.summary[1]
    best, manifest = places.json("fast", "metrics")["best"], places.json("fast", "manifest")
    tested = next(one for one in places.json("fast", "eval_summary")["rows"] if one["data"] == "pooled")["metrics"]
    assert (row["num_epochs"], row["step_unit"], int(row["best_step"])) == ("4", "round", best["epoch"])
    assert [float(row[f"best_val_{name}"]) for name in tested] == [best[f"val_{name}"] for name in tested]
    assert [float(row[f"test_{name}"]) for name in tested] == list(tested.values())
    assert float(row["wall_time_s"]) == manifest["seconds"]
    assert int(row["total_parameters"]) == manifest["parameters"]["total"] == 67


def test_the_summary_can_be_made_again_and_says_where_there_is_none(many: Path) -> None:
    places = Places(many, "centralized")
    places.call("--all")
    path = places.folder / "experiment_summary.csv"
    text = path.read_text()
    path.unlink()
    answer = ask(reports, "experiments", places.folder)
    assert (answer.exit_code, path.read_text()) == (0, text)
    assert f"summary: {path}" in answer.stdout
    refused(ask(reports, "experiments", many.parent / "nowhere"), "holds no run of an experiment; name the folder")
    edit(places.folder / "fast" / "status.json", status="odd")
    refused(ask(reports, "experiments", places.folder), "status = 'odd' is none of running, completed")
