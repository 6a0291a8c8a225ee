import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from core.errors import UserError
from reports.__main__ import app
from reports.aggregate import markdown, read_summaries

FIXTURE = Path(__file__).parent / "fixtures" / "image_expression" / "aggregate.npz"


def write(folder: Path, **content: object) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(content))


def test_the_table_is_the_recorded_one_printed_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = np.load(FIXTURE)
    for name, text in zip(recorded["run_dirs"], recorded["metrics_json"], strict=True):
        folder = tmp_path / "results" / str(name)
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(str(text))
    monkeypatch.chdir(tmp_path)
    expected = str(recorded["expected_markdown"])
    done = CliRunner().invoke(app, ["table", "results", "--out", "tables/summary.md"])
    assert (done.exit_code, done.stdout) == (0, expected)
    assert Path("tables/summary.md").read_text() == expected
    assert CliRunner().invoke(app, ["table", "results"]).stdout == expected
    assert Path("results/summary.md").read_text() == expected


def test_other_tasks_have_a_table_with_their_own_metrics(tmp_path: Path) -> None:
    cells = {"epoch": 2, "train_loss": 1.0, "val_loss": 0.5, "val_f1_macro": 0.75, "val_accuracy": 0.5}
    genes = {"epoch": 3, "train_loss": 2.0, "val_loss": 1.5, "val_spearman": 0.25, "val_mse": 1.5}
    write(tmp_path / "cells" / "b", run_name="named", best_primary=0.75, best=cells, last={})
    write(tmp_path / "cells" / "a", run_name="", best_primary=None, best=None, last={"epoch": 1, "val_loss": None})
    write(tmp_path / "genes" / "c", run_name="x|y", best_primary=0.25, best=genes, last=genes)
    at = tmp_path.as_posix()
    assert markdown(read_summaries(tmp_path)).splitlines() == [
        "| run | epoch | best_primary | val_f1_macro | val_accuracy | val_loss | train_loss | path |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| a | 1 |  |  |  |  |  | {at}/cells/a |",
        f"| named | 2 | 0.7500 | 0.7500 | 0.5000 | 0.5000 | 1.0000 | {at}/cells/b |",
        "",
        "| run | epoch | best_primary | val_spearman | val_pearson | val_loss | train_loss | path |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        rf"| x\|y | 3 | 0.2500 | 0.2500 |  | 1.5000 | 2.0000 | {at}/genes/c |",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "holds no metrics.json"),
        ("{", "metrics.json: not valid JSON"),
        ("[1]", "metrics.json: holds list, no run_name"),
        ('{"best": 3}', "metrics.json: best is int, not key: value pairs"),
    ],
)
def test_bad_input_is_refused_with_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    (tmp_path / "run").mkdir()
    if text is not None:
        (tmp_path / "run" / "metrics.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        read_summaries(tmp_path)
    assert "\n" not in str(caught.value)
    done = CliRunner().invoke(app, ["table", str(tmp_path)])
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert not (tmp_path / "summary.md").exists()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["table", str(tmp_path / "nowhere")])
    assert done.exit_code == 2
    assert "no such folder" in done.stderr
