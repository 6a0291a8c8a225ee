"""A user's mistakes: exit code 2, one line that names file, key and remedy, and nothing half-written.

Each is made with both commands, in this process, on a spoiled copy of the small study or with spoiled overrides.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import Result

from tests.commands import COMMANDS, refused, run
from tests.spoiled_studies import (
    HELD_OUT,
    SOUTH,
    TEST,
    TRAIN,
    VAL,
    Spoil,
    both,
    checkpoint,
    column,
    count,
    cut,
    damaged_column,
    edited,
    genes,
    gone,
    holding,
    log_normalised,
    no_column,
    nothing,
    renamed,
    same_cell,
    shared_donor,
    short_mean,
    without,
)
from training.engine import Trainer

TINY = {"dim_model": 16, "nheads": 2, "dim_feedforward": 16, "nlayers": 1, "context_length": 16}
CHECKPOINT = ("options.random_backbone=null", "options.checkpoint=STUDY/weights.ckpt")


@dataclass(frozen=True)
class Place:
    """An experiment on a copy of the small study, and where its results go."""

    folder: Path

    @property
    def study(self) -> Path:
        return self.folder / "study"

    @property
    def config(self) -> Path:
        return self.folder / "experiment.yaml"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def run(self) -> Path:
        return self.results / "nicheformer" / "run"

    def status(self) -> dict[str, object]:
        return dict(json.loads((self.run / "status.json").read_text()))

    def files(self) -> set[Path]:
        """What is there, apart from what can be computed again."""
        return {path for path in self.folder.rglob("*") if ".cache" not in path.parts and path != self.results}

    def leftovers(self) -> list[Path]:
        """Files that were never finished."""
        return [path for path in self.folder.rglob(".*") if path.name != ".cache"]

    def call(self, command: str, *overrides: str) -> Result:
        words = [text.replace("STUDY", str(self.study)) for text in overrides]
        return run(command, self.config, *words, "--results", self.results, "--name", "run")


@pytest.fixture
def place(study: Path, tmp_path: Path) -> Place:
    made = Place(tmp_path)
    shutil.copytree(study, made.study, ignore=shutil.ignore_patterns(".cache"))
    options = {"data": str(made.study), "unit_key": "library_key", "random_backbone": TINY}
    experiment = {"task": "nicheformer", "options": options, "train": {"device": "cpu"}, "federation": {"rounds": 1}}
    made.config.write_text(yaml.safe_dump(experiment))
    return made


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ends every attempt to train, and tells who tried; a machine with a GPU looks like one without."""
    seen: list[str] = []

    def refuse(self: Trainer, samples: object, epoch: int) -> None:
        seen.append(self.client)
        raise RuntimeError("training began")

    monkeypatch.setattr(Trainer, "run_epoch", refuse)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    return seen


def named(mistakes: dict[str, object]) -> list[object]:
    return [pytest.param(mistake, id=name) for name, mistake in mistakes.items()]


CONFIG_MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "batch size 0": (("train.batch_size=0",), ("train.batch_size = 0", "greater than or equal to 1; change")),
    "unknown key": (("train.bach_size=8",), ("train.bach_size: unknown key; did you mean batch_size?",)),
    "unknown section": (("trian.lr=1",), ("trian: unknown key; did you mean train?",)),
    "unknown option": (("options.lable=x",), ("options.lable: unknown key; did you mean label?",)),
    "unknown key in a section": (
        ("options.random_backbone.contex_length=8",),
        ("options.random_backbone.contex_length: unknown key; did you mean context_length?",),
    ),
    "unknown key of a strategy": (
        ("federation.strategy=fedprox", "federation.strategy.proximal_nu=1"),
        ("federation.strategy.proximal_nu: unknown key; did you mean proximal_mu?",),
    ),
    "unknown strategy": (("federation.strategy=fedavgg",), ("federation.strategy = 'fedavgg'", "did you mean fedavg?")),
    "strategy like no other": (("federation.strategy=zzz",), ("federation.strategy = 'zzz'", "choose one of: fedavg")),
    "unknown task": (("task=nicheformr",), ("task = 'nicheformr': no such task; ", "python -m tasks")),
    "path as task": (("task=../tasks/nicheformer",), ("task = '../tasks/nicheformer': no such task; ",)),
    "unknown technology": (("options.technology=visium",), ("options.technology = 'visium'", "'xenium'")),
    "unknown species": (("options.specie=klingon",), ("options.specie = 'klingon'", "not a known specie; give one of")),
    "unknown assay": (("options.assay=klingon",), ("options.assay = 'klingon'", "not a known assay; give one of")),
    "unknown modality": (("options.modality=99",), ("options.modality = 99", "'dissociated' (3), 'spatial' (4)")),
    "no backbone": (
        ("options.random_backbone=null",),
        ("options: neither checkpoint nor random_backbone", "; set one"),
    ),
    "two backbones": (CHECKPOINT[1:], ("options: both checkpoint and random_backbone", "; set one")),
    "heads that do not divide": (
        ("options.random_backbone.nheads=3",),
        ("options.random_backbone: nheads 3 does not divide dim_model 16; change",),
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("mistake", named(CONFIG_MISTAKES))
def test_a_config_that_cannot_be_used_leaves_nothing_behind(
    place: Place, command: str, mistake: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    overrides, expected = mistake
    refused(place.call(command, *overrides), f"{place.config}: ", *expected)
    assert not place.results.exists()


COLUMN = "obs: no column 'nowhere'; add it or set"
RAW = "these are not raw counts (log-normalised?); put raw counts there"
UNSEEN = "obs['cell_type']: 'unicorn' is in no client's train split; remove these cells or add some"
KLINGON = "'klingon' is not a known"
DATA_MISTAKES: dict[str, tuple[Spoil, tuple[str, ...], tuple[str, ...]]] = {
    "missing folder": (gone, (), ("study: no such file or folder; check the path",)),
    "empty file": (holding(VAL, b""), (), (VAL, "empty file (0 bytes); copy or make it anew")),
    "no h5ad": (holding(VAL, b"cell,gene\n" * 99), (), (VAL, "not an h5ad file", "; save it with")),
    "cut off": (cut(TRAIN), (), (TRAIN, "damaged h5ad file", "; copy or make it anew")),
    "damaged column": (damaged_column, (), (TRAIN, "obs['cell_type']: damaged", "; copy or make")),
    "no test file": (without(TEST), (), (TEST, "no such file; every client folder needs", "test.h5ad")),
    "reserved name": (renamed("clients/hospital_north", "clients/pooled"), (), ("'pooled' is reserved", "; rename")),
    "log-normalised": (edited(TRAIN, log_normalised), (), (TRAIN, ": X: value", RAW)),
    "not whole": (count(TRAIN, 2.5), (), (TRAIN, ": X: value 2.5 is not a whole number", RAW)),
    "negative": (count(TRAIN, -3), (), (TRAIN, ": X: negative value -3; put raw counts there")),
    "NaN": (count(TRAIN, np.nan), (), (TRAIN, ": X: NaN or infinite values; set them to 0")),
    "infinity": (count(HELD_OUT, np.inf), (), (HELD_OUT, ": X: NaN or infinite values; set them to 0")),
    "genes without ids": (
        genes(TRAIN, lambda names: [str(number) for number in range(len(names))]),
        (),
        (TRAIN, "var_names: 0 of 120 genes", "first gene '0'; use Ensembl gene ids as var_names"),
    ),
    "a gene twice": (genes(TRAIN, lambda names: [names[1], *names[1:]]), (), (TRAIN, "occurs twice; sum or remove")),
    "few genes": (
        genes(f"{SOUTH}/test.h5ad", lambda names: [*names[:50], *(f"ENSG9{name}" for name in names[50:])]),
        (),
        (f"{SOUTH}/test.h5ad", "50 of 120 genes are in the vocabulary, 60 needed (min_matched_genes)", "; use another"),
    ),
    "genes of the held-out set": (
        genes(HELD_OUT, lambda names: [f"x{name}" for name in names]),
        (),
        (HELD_OUT, "; use"),
    ),
    "no such label": (nothing, ("options.label=nowhere",), (TRAIN, COLUMN, "options.label (columns there: assay,")),
    "label only missing outside": (no_column(HELD_OUT, "cell_type"), (), (HELD_OUT, "no column 'cell_type'; add it")),
    "no species": (no_column(TEST, "specie"), (), (TEST, "no column 'specie'; add it or set options.specie")),
    "label only in val": (column(f"{SOUTH}/val.h5ad", "cell_type", "unicorn"), (), (f"{SOUTH}/val.h5ad", UNSEEN)),
    "label only in test": (column(f"{SOUTH}/test.h5ad", "cell_type", "unicorn"), (), (f"{SOUTH}/test.h5ad", UNSEEN)),
    "label only outside": (column(HELD_OUT, "cell_type", "unicorn"), (), (HELD_OUT, UNSEEN)),
    "one class": (
        column(TRAIN, "cell_type", "microglia", everywhere=True),
        (),
        (TRAIN, "obs['cell_type']: client 'hospital_north' has one class (microglia)", "; give it cells of two"),
    ),
    "cell in two splits": (
        same_cell(TRAIN, VAL),
        (),
        ("study: cell 'hospital_north_s0_c0000' is in both hospital_north/train and hospital_north/val", "; split by"),
    ),
    "cell outside too": (
        same_cell(TRAIN, HELD_OUT),
        ("options.unit_key=null",),
        ("study: cell 'hospital_north_s0_c0000' is in both hospital_north/train and held_out/test", "; split by"),
    ),
    "section in two splits": (
        column(VAL, "library_key", "hospital_north_section_0", everywhere=True),
        (),
        ("unit 'hospital_north_section_0' is in both hospital_north/train and hospital_north/val", "; split by"),
    ),
    "donor at two clients": (
        shared_donor,
        ("options.disjoint_keys=[donor_id]",),
        ("study: donor_id 'the same' is in both hospital_north/val and hospital_south/val", "; split by"),
    ),
    "no such unit": (nothing, ("options.unit_key=nowhere",), (TRAIN, COLUMN, "unit_key (columns there: assay,")),
    "no unit outside": (no_column(HELD_OUT, "library_key"), (), (HELD_OUT, "no column 'library_key'", "set unit_key")),
    "no such key": (nothing, ("options.disjoint_keys=[nowhere]",), (TRAIN, COLUMN, "options.disjoint_keys")),
    "unknown species": (column(TEST, "specie", "klingon"), (), (TEST, "obs['specie']", KLINGON, "; give one of")),
    "unknown assay": (column(TEST, "assay", "klingon"), (), (TEST, "obs['assay']", KLINGON, "; give one of")),
    "unknown modality": (column(HELD_OUT, "modality", "klingon"), (), (HELD_OUT, "obs['modality']", KLINGON, "; give")),
    "no checkpoint": (nothing, CHECKPOINT, ("weights.ckpt: no such file; check the path of the checkpoint",)),
    "checkpoint cut off": (
        both(checkpoint(), cut("weights.ckpt")),
        CHECKPOINT,
        ("weights.ckpt: not a checkpoint, or",),
    ),
    "checkpoint of another vocabulary": (
        checkpoint(500),
        CHECKPOINT,
        ("reference/model.h5ad: 600 genes, but ", "weights.ckpt has tokens for 500; let options.reference"),
    ),
    "checkpoint that runs code": (
        checkpoint(bomb=True),
        CHECKPOINT,
        ("weights.ckpt: refused, because it asks for posix.system, which", "; get the weights as safetensors"),
    ),
    "no vocabulary": (without("reference/model.h5ad"), (), ("model.h5ad: no such file; put", "set reference")),
    "no mean": (without("reference/xenium_mean_script.npy"), (), ("xenium_mean_script.npy: no such file; put",)),
    "mean of another technology": (
        nothing,
        ("options.technology=merfish",),
        ("reference/merfish_mean_script.npy: no such file", "; put", "set technology"),
    ),
    "mean of other length": (
        short_mean,
        (),
        ("script.npy: shape (7,), but the vocabulary has 600 genes; use mean and",),
    ),
    "no orthologs": (
        nothing,
        ("options.orthologs=STUDY/o.csv",),
        ("study/o.csv: no such file; set orthologs to a CSV",),
    ),
    "no such metric": (
        nothing,
        ("train.monitor=f1_makro",),
        ("train.monitor = 'f1_makro': unknown metric; choose one of loss, accuracy, balanced_accuracy, f1_macro",),
    ),
    "a metric per class": (
        nothing,
        ("train.monitor=f1_per_class",),
        ("train.monitor = 'f1_per_class'", "; choose one"),
    ),
    "no GPU": (nothing, ("train.device=cuda",), ("train.device = 'cuda': this machine has no such device; use auto",)),
}

LISTING = {
    "missing folder", "empty file", "no h5ad", "cut off", "no test file", "reserved name", "log-normalised",
    "not whole", "negative", "NaN", "infinity", "no such label", "label only missing outside", "no species",
    "no such unit", "no unit outside", "no such key",
}  # fmt: skip
"""What shows when the clients are listed, which `python -m fl` does before it makes a folder."""


@pytest.mark.parametrize("command", ["centralized", "fl"])
@pytest.mark.parametrize("name", DATA_MISTAKES)
def test_what_cannot_be_used_is_refused_before_training(
    place: Place, trained: list[str], command: str, name: str
) -> None:
    spoil, overrides, expected = DATA_MISTAKES[name]
    spoil(place.study)
    before = place.files()
    line = refused(place.call(command, *overrides), *expected)
    assert not trained and not place.leftovers() and not (place.study / "exploded").exists()
    if command == "fl" and name in LISTING:
        assert line.startswith(f"{place.config}: ") and not place.results.exists()
        return
    status = place.status()
    assert (status["status"], status["exit_code"], status["error"]) == ("failed", 2, line)
    written = {path.name for path in place.files() - before}
    assert written == {"nicheformer", "run", "config.yaml", "status.json", "log.txt"}


@pytest.mark.parametrize("command", ["centralized", "fl"])
def test_the_study_itself_is_not_refused(place: Place, trained: list[str], command: str) -> None:
    checkpoint()(place.study)
    result = place.call(command, *CHECKPOINT)
    assert (result.exit_code, bool(trained)) == (1, True)
    assert "training began" in str(place.status()["error"])
