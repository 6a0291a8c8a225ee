"""The author of a task: what docs/new_task.md shows works as it stands, and a mistake is one line that names it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tasks.__main__ import app
from tests.conftest import Finished, conduct
from tests.new_task import added, write_files
from tests.refusals import refused
from tests.toy_task import Points
from training.config import load
from training.preparation import check_names
from training.runs import Run
from training.task_modules import load_task_class

ROOT = Path(__file__).resolve().parent.parent
WHOLE = "from tests.toy_task import Points as TASK\n"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module; give its dotted path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str) -> str:
        package = tmp_path / f"package_of_{tmp_path.name}"
        package.mkdir()
        (package / "learning.py").write_text(text)
        return f"{package.name}.learning"

    return write


def test_the_task_of_the_page_learns_in_all_three_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    with added(tmp_path):
        from datasets.synthetic import stay

        stay.make(Path("data/stay"))
        experiment = load("configs/stay.yaml", ["train.epochs=10"])
        for setting in ("centralized", "local", "federated"):
            run = Run.create(tmp_path / setting, experiment, setting)
            assert conduct(run) == "completed"
            rows = Finished(run.folder).json("eval_summary")["rows"]
            errors = [row["metrics"]["mae"] for row in rows if row["data"] in ("pooled", "north", "south", "west")]
            # Predicting nothing is wrong by the mean stay of 7 days.
            assert errors and max(errors) < 5 and min(errors) < 2


def test_the_page_is_in_the_style_of_the_house(tmp_path: Path) -> None:
    files = [str(path) for path in write_files(tmp_path) if path.suffix == ".py"]
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        words = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), *files]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert len(files) == 2 and done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("TASK = 3", ("ends in no `TASK = YourTask`",)),
        ("class A: ...", ("ends in no `TASK = YourTask`",)),
        (
            "from training.task import Task\nclass Half(Task):\n    def clients(self): return []\nTASK = Half",
            ("Half lacks Fitted, primary, client_data, data_digest", "statistics; see docs/new_task.md"),
        ),
        (
            "from tests.toy_task import Points\nclass Twice(Points):\n    passes = 2\nTASK = Twice",
            ("Twice lacks further_statistics; see",),
        ),
        (
            f"{WHOLE}\nfrom core.files import nothing",
            ("cannot be imported (ImportError", "line 3 of", "mend the module"),
        ),
        (f"{WHOLE}import no_such_package", ("No module named 'no_such_package', line 2 of",)),
        (f"{WHOLE}1 / 0", ("cannot be imported (ZeroDivisionError: division by zero, line 2 of",)),
        ("def f(:", ("cannot be imported (SyntaxError: ", "learning.py, line 1)")),
    ],
)
def test_a_mistake_in_a_module_is_named(text: str, parts: tuple[str, ...], module: Callable[[str], str]) -> None:
    name = module(text)
    refused(lambda: load_task_class(name), f"task = {name!r}: ", *parts)


def test_a_whole_module_is_taken(module: Callable[[str], str]) -> None:
    assert load_task_class(module(WHOLE)) is Points


def test_a_broken_task_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "broken.py").write_text("import no_such_package")
    with added(tmp_path):
        done = CliRunner().invoke(app, [])
        assert done.exit_code == 0
        for name in ("attention_unet", "vgg3d"):
            assert f"\n{name}  " in f"\n{done.output}"
        assert "broken  cannot be used" in done.output
        broken = CliRunner().invoke(app, ["broken"])
    assert broken.exit_code == 2
    assert "No module named 'no_such_package'" in broken.output


def test_a_headline_that_is_not_computed_names_the_task(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Points, "primary", "rmse")
    line = refused(lambda: conduct(start("centralized")), "task = 'tests.toy_task': Points.primary = 'rmse'")
    assert "choose one of loss, accuracy" in line and "monitor" not in line


def test_an_empty_folder_is_told_where_layouts_are() -> None:
    refused(lambda: check_names([], "data/stay"), "data/stay: holds no client; docs/tasks.md shows the layouts")
