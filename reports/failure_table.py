"""Failures of clients as a table: who, in what, how often, and where the traceback is."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reports.numbers import counted
from reports.run_folder import RunRecord
from reports.tables import Cell, Table

NOTE = (
    "A client that is asked again and then gives a good answer has taken part as if nothing had happened. "
    "Failures of a client in one phase count as alike where their messages differ in numbers alone. Tracebacks are "
    "files of the run folder; links lead to them as long as the page is left where it was written."
)


def failure_table(records: Sequence[RunRecord], out: Path) -> Table:
    """Give a row per run, client and kind of failure.

    Args:
        records: The runs.
        out: Folder of the page, which links are relative to.
    """
    table = Table(
        ["run", "client", "phase", "kind", "then", "times", "steps", "message of the first", "traceback"], note=NOTE
    )
    for record in records:
        alike: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
        for then, failures in (("given up", record.failures), ("asked again", record.retried)):
            for one in failures:
                named = [str(one[name]) for name in ("client", "phase", "kind")]
                key = (*named, then, re.sub(r"\d+", "0", str(one["message"])))
                alike.setdefault(key, []).append(one)
        for (*named, _), group in sorted(alike.items()):
            texts = [Cell(text, "text") for text in (record.folder.name, *named)]
            counts = [Cell(f"{len(group):,}"), Cell(counted([one["step"] for one in group]))]
            message = Cell(str(group[0]["message"]), "text")
            table.rows.append([*texts, *counts, message, _traceback(record, group, out)])
    return table


def _traceback(record: RunRecord, group: Sequence[Mapping[str, Any]], out: Path) -> Cell:
    """Link the first traceback that there is."""
    named = next((str(one["traceback"]) for one in group if one.get("traceback")), "")
    path = record.folder / named
    if not named or not path.is_file():
        return Cell(named or "none", "text")
    return Cell(named, "text", href=quote(Path(os.path.relpath(path.absolute(), out.absolute())).as_posix()))
