"""The task that docs/new_task.md shows, as files, and as part of the packages it belongs to."""

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import datasets.synthetic
import tasks

PAGE = Path(__file__).resolve().parent.parent / "docs" / "new_task.md"


def write_files(folder: Path) -> list[Path]:
    """Write the blocks of the page that name a file."""
    paths = []
    for name, text in re.findall(r"```\w+ (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        paths.append(folder / name)
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_text(text)
    return paths


@contextmanager
def added(folder: Path) -> Iterator[None]:
    """Let `tasks` and `datasets.synthetic` have the modules that lie in the folder, too."""
    importlib.invalidate_caches()
    with pytest.MonkeyPatch.context() as patch:
        for package in (tasks, datasets.synthetic):
            places = [*package.__path__, str(folder.joinpath(*package.__name__.split(".")))]
            patch.setattr(package, "__path__", places)
        yield
