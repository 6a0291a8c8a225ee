"""From run folders to a page, its pictures, and the tables as data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from core.errors import UserError
from core.files import atomic, write_json, write_text
from reports.baselines import baseline_rows
from reports.comparison import Comparison, compare
from reports.drawing import DPI, literal_text
from reports.exports import write_exports
from reports.honesty import failures, warnings
from reports.page import render
from reports.plots import plots
from reports.run_folder import RunRecord
from reports.tables import long_rows
from reports.verdict import verdict


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Report on a run, or on several side by side.

    Args:
        runs: Run folders of one task, of any setting and state; one result per setting and seed.
        out: Folder that gets report.html, plots/, the tables of `write_exports`, and for several runs comparison.csv
            and comparison.json.

    Returns:
        The page.

    Raises:
        UserError: A folder cannot be read, or the runs cannot be compared.
    """
    return write_page(compare([RunRecord.read(Path(run)) for run in runs]), out)


def write_page(comparison: Comparison, out: Path) -> Path:
    """Do the same for runs that are compared already."""
    warned = warnings(comparison.records)
    with literal_text():
        pictures = {stem: _save(figure, out / "plots" / f"{stem}.png") for stem, figure in plots(comparison).items()}
    if len(comparison.everyone) > 1:
        _write_tables(comparison, warned, out)
    write_exports(comparison, out)
    page = out / "report.html"
    write_text(page, render(comparison, warned, pictures, out))
    return page


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Replace every comparison folder by the run folders in it.

    Raises:
        UserError: A path is neither a run folder nor a folder of run folders.
    """
    found = []
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; name a run folder or a folder of run folders")
        inner = [path] if (path / "status.json").exists() else sorted(one.parent for one in path.glob("*/status.json"))
        if not inner:
            raise UserError(f"{path}: holds no status.json and no run folder; name a folder that a run has made")
        found += inner
    return list(dict.fromkeys(found))


def _save(figure: Figure, path: Path) -> bytes:
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor="white")
    return path.read_bytes()


def _write_tables(comparison: Comparison, warned: list[str], out: Path) -> None:
    rows = long_rows(comparison) + baseline_rows(comparison)
    write_text(out / "comparison.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
    content: dict[str, Any] = {
        "task": comparison.task,
        "primary": comparison.primary,
        "higher_is_better": comparison.higher_is_better,
        "verdict": verdict(comparison, warned),
        "failures": failures(comparison.everyone),
        "warnings": warned,
        "runs": [
            {"folder": one.folder.name, "setting": one.setting, "seed": one.seed, "status": one.status}
            for one in comparison.everyone
        ],
        "rows": rows,
    }
    write_json(out / "comparison.json", content)
