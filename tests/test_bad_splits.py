"""No unit in two places: studies from the synthetic makers, spoiled at drawn places, are refused by the unit's name."""

import csv
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from datasets.placement import HELD_OUT
from datasets.rosette_samples import read_samples
from datasets.rosette_splits import Draw, write_manifest
from tests.refusals import refused
from training.config import load
from training.preparation import check_leaks

ROOT = Path(__file__).resolve().parent.parent
SEEDS = range(5)
SMALL = {
    "nicheformer": {"cells_per_section": 6},
    "vgg3d": {"nuclei_per_site": 8, "shape": (2, 6, 6)},
    "image_expression": {"patients": 4, "tiles_per_patient": 2, "size": 8},
    "attention_unet": {"animals": 4},
    "joint_vae": {},
}
Random = np.random.Generator
Spoil = Callable[[Path, Random], tuple[str, list[str]]]
"""Spoils a copy of a study; gives the name of the unit that is in two places, and overrides."""


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the small study of a task, made once."""
    made: dict[str, Path] = {}

    def study(task: str) -> Path:
        if task not in made:
            made[task] = tmp_path_factory.mktemp(task) / "study"
            importlib.import_module(f"datasets.synthetic.{task}").make(made[task], **SMALL[task])
        return made[task]

    return study


def draw(random: Random, values: list[str], *, but: str = "") -> str:
    return str(random.choice([value for value in values if value != but]))


def rewrite(path: Path, change: Callable[[pd.DataFrame], object]) -> pd.DataFrame:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(table)
    table.to_csv(path, index=False, quoting=csv.QUOTE_MINIMAL)
    return table


# Cells


def cell_files(study: Path, random: Random, same_client: bool | None) -> tuple[Path, Path]:
    """Draw two files: of one client, of two, or (None) one of a client and the held-out one."""
    paths = sorted(study.glob("clients/*/*.h5ad"))
    first = paths[int(random.integers(len(paths)))]
    if same_client is None:
        return first, study / "held_out.h5ad"
    others = [path for path in paths if path != first and (path.parent == first.parent) is same_client]
    return first, others[int(random.integers(len(others)))]


def one_cell(same_client: bool | None) -> Spoil:
    def spoil(study: Path, random: Random) -> tuple[str, list[str]]:
        source, target = cell_files(study, random, same_client)
        first, second = ad.read_h5ad(source), ad.read_h5ad(target)
        row = int(random.integers(len(first)))
        ad.concat([second, first[row : row + 1]], merge="same").write_h5ad(target)
        return f"cell {first.obs_names[row]!r}", ["options.unit_key=null"]

    return spoil


def one_section(same_client: bool | None) -> Spoil:
    def spoil(study: Path, random: Random) -> tuple[str, list[str]]:
        source, target = cell_files(study, random, same_client)
        section = draw(random, ad.read_h5ad(source).obs["library_key"].unique().tolist())
        relabel(target, "library_key", section, int(random.integers(len(ad.read_h5ad(target)))))
        return f"unit {section!r}", []

    return spoil


def one_donor(same_client: bool | None) -> Spoil:
    def spoil(study: Path, random: Random) -> tuple[str, list[str]]:
        for path in study.rglob("*.h5ad"):
            if path.parent.name != "reference":
                relabel(path, "donor_id", f"donor of {path.parent.name} {path.stem}")
        source, target = cell_files(study, random, same_client)
        donor = f"donor of {source.parent.name} {source.stem}"
        relabel(target, "donor_id", donor, int(random.integers(len(ad.read_h5ad(target)))))
        return f"donor_id {donor!r}", ["options.disjoint_keys=[donor_id]"]

    return spoil


def relabel(path: Path, key: str, value: str, row: int | None = None) -> None:
    cells = ad.read_h5ad(path)
    values = cells.obs[key].astype(str).to_numpy(dtype=object)
    values[slice(None) if row is None else row] = value
    cells.obs[key] = pd.Categorical(values)
    cells.write_h5ad(path)


# Nuclei


def nucleus_twice(study: Path, random: Random) -> tuple[str, list[str]]:
    """A row of the class table once more, at another institute."""
    table = rewrite(study / "classes.csv", lambda table: None)
    row = table.iloc[int(random.integers(len(table)))].copy()
    row["site"] = draw(random, table["site"].unique().tolist(), but=row["site"])
    table.loc[len(table)] = row
    table.to_csv(study / "classes.csv", index=False)
    return row["sample_id"], []


def nucleus_copied(same_client: bool) -> Spoil:
    """The files of a nucleus once more, under another id."""

    def spoil(study: Path, random: Random) -> tuple[str, list[str]]:
        def change(table: pd.DataFrame) -> None:
            place = table.groupby(["site", "class_name"]).cumcount()
            table["part"] = np.where(table["site"] == HELD_OUT, "test", np.asarray(["train", "val", "test"])[place % 3])

        table = rewrite(study / "classes.csv", change)
        known = table[(table["class_name"] != "Unclassified") & (table["site"] != HELD_OUT)]
        first = known.iloc[int(random.integers(len(known)))]
        others = known[((known["site"] == first["site"]) == same_client) & (known["part"] != first["part"])]
        second = others.iloc[int(random.integers(len(others)))]
        shutil.rmtree(study / second["sample_id"])
        shutil.copytree(study / first["sample_id"], study / second["sample_id"])
        return "content '", ["options.split_key=part", "options.fractions=[0.7,0.15,0.15]"]

    return spoil


# Tiles


def patient_at_two_clients(study: Path, random: Random) -> tuple[str, list[str]]:
    spoiled: list[str] = []

    def change(table: pd.DataFrame) -> None:
        row = int(random.integers(len(table)))
        spoiled.append(table.loc[row, "group_id"])
        table.loc[row, "site"] = draw(random, table["site"].unique().tolist(), but=table.loc[row, "site"])

    rewrite(study / "metadata.csv", change)
    return repr(spoiled[0]), []


def patient_in_two_splits(study: Path, random: Random) -> tuple[str, list[str]]:
    table = pd.read_csv(study / "metadata.csv", dtype=str)
    number = {group: place % 4 for place, group in enumerate(sorted(table["group_id"].unique()))}
    names = np.asarray(["train", "train", "val", "test"])
    split = names[table["group_id"].map(number)]
    row = int(random.integers(len(table)))
    split[row] = draw(random, ["train", "val", "test"], but=split[row])
    table[["path", "group_id"]].assign(split=split).to_csv(study / "split.csv", index=False)
    return repr(table.loc[row, "group_id"]), [f"options.split={study / 'split.csv'}"]


def slide_under_two_names(study: Path, random: Random) -> tuple[str, list[str]]:
    """A tile of one patient listed once more for another."""
    spoiled: list[str] = []

    def change(table: pd.DataFrame) -> None:
        first = int(random.integers(len(table)))
        others = table.index[table["group_id"] != table.loc[first, "group_id"]].tolist()
        second = int(random.choice(others))
        table.loc[second, "path"] = table.loc[first, "path"]
        spoiled.append(Path(table.loc[first, "path"]).name)

    rewrite(study / "metadata.csv", change)
    return spoiled[0], []


# Images of tissue


def animal_at_two_clients(study: Path, random: Random) -> tuple[str, list[str]]:
    spoiled: list[str] = []

    def change(table: pd.DataFrame) -> None:
        row = int(random.integers(len(table)))
        spoiled.append(table.loc[row, "animal_id"])
        table.loc[row, "replicate"] = draw(random, ["R1", "R2", "R3", "R4"], but=table.loc[row, "replicate"])

    rewrite(study / "metadata.csv", change)
    return f"animal {spoiled[0]!r}", []


def manifest(change: Callable[[dict[str, list[str]], Random], str]) -> Spoil:
    """A manifest of a split, spoiled."""

    def spoil(study: Path, random: Random) -> tuple[str, list[str]]:
        samples = read_samples(study)
        path = study / "manifest.json"
        content = write_manifest(path, samples, Draw(test_fraction=0.25), client_key="replicate")
        unit = change(content, random)
        path.write_text(json.dumps(content))
        return unit, [f"options.split={path}", "options.fractions=[0.7, 0.15, 0.15]"]

    return spoil


def lists(content: dict[str, list[str]], random: Random) -> tuple[list[str], list[str]]:
    first, second = random.choice(["train", "val", "test"], 2, replace=False)
    return content[f"{first}_sample_list"], content[f"{second}_sample_list"]


def moved(content: dict[str, list[str]], random: Random) -> str:
    source, target = lists(content, random)
    target.append(source.pop(int(random.integers(len(source)))))
    replicate, _, animal, _ = target[-1].split("_")
    return f"animal '{replicate}_{animal}'"


def repeated(content: dict[str, list[str]], random: Random) -> str:
    source, target = lists(content, random)
    target.append(draw(random, source))
    return f"sample {target[-1]!r}"


# Blood samples


def donor_at_two_clients(study: Path, random: Random) -> tuple[str, list[str]]:
    """A donor of one hospital written into a row of both platforms of another."""
    first, second = random.choice(["hospital_north", "hospital_south", "hospital_west", "hospital_east"], 2, False)
    donor = draw(random, pd.read_csv(study / first / "platform_a.csv", dtype=str)["donor"].tolist())
    ids = [set(pd.read_csv(path, dtype=str)["sample"]) for path in sorted((study / second).glob("*.csv"))]
    sample = draw(random, sorted(set.intersection(*ids)))
    for path in (study / second).glob("*.csv"):
        rewrite(path, lambda table: table.__setitem__("donor", table["donor"].where(table["sample"] != sample, donor)))
    return f"donor {donor!r}", []


KINDS: dict[str, dict[str, Spoil]] = {
    "nicheformer": {
        "cell in two splits": one_cell(True),
        "cell at two clients": one_cell(False),
        "cell held out and not": one_cell(None),
        "section in two splits": one_section(True),
        "section at two clients": one_section(False),
        "section held out and not": one_section(None),
        "donor in two splits": one_donor(True),
        "donor at two clients": one_donor(False),
        "donor held out and not": one_donor(None),
    },
    "vgg3d": {
        "nucleus at two clients": nucleus_twice,
        "nucleus copied into another split": nucleus_copied(True),
        "nucleus copied to another client": nucleus_copied(False),
    },
    "image_expression": {
        "patient at two clients": patient_at_two_clients,
        "patient in two splits": patient_in_two_splits,
        "tile of two patients": slide_under_two_names,
    },
    "attention_unet": {
        "animal at two clients": animal_at_two_clients,
        "animal in two splits": manifest(moved),
        "image in two splits": manifest(repeated),
    },
    "joint_vae": {"donor at two clients": donor_at_two_clients},
}
CASES = [(task, kind) for task, kinds in KINDS.items() for kind in kinds]


def check(task: str, data: Path, overrides: list[str]) -> None:
    """What both runners do before anything is trained."""
    experiment = load(ROOT / "configs" / f"{task}.yaml", [f"options.data={data}", *overrides])
    opened = experiment.build_task()
    check_leaks(opened, opened.clients())


@pytest.mark.parametrize("task", SMALL)
def test_the_studies_as_they_are_made_pass(studies: Callable[[str], Path], task: str) -> None:
    check(task, studies(task), [])


@pytest.mark.parametrize(("task", "kind"), CASES, ids=[f"{task}: {kind}" for task, kind in CASES])
def test_what_is_in_two_places_is_refused_by_name(
    studies: Callable[[str], Path], tmp_path: Path, task: str, kind: str
) -> None:
    for seed in SEEDS:
        study = tmp_path / str(seed)
        shutil.copytree(studies(task), study, ignore=shutil.ignore_patterns(".cache"))
        unit, overrides = KINDS[task][kind](study, np.random.default_rng(seed))
        line = refused(lambda study=study, overrides=overrides: check(task, study, overrides))
        assert unit in line
