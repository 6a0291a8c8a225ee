import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["core", "datasets", "models", "training", "tasks", "centralized", "fl", "reports"]


@pytest.mark.parametrize("name", PACKAGES)
def test_our_packages_resolve_inside_the_repository(name: str) -> None:
    module = importlib.import_module(name)
    assert Path(str(module.__file__)).resolve().parent == ROOT / name


@pytest.mark.parametrize("name", PACKAGES)
def test_package_files_hold_a_docstring_only(name: str) -> None:
    lines = (ROOT / name / "__init__.py").read_text().strip()
    assert lines.startswith('"""') and lines.endswith('"""') and lines.count('"""') == 2


def test_files_and_functions_stay_readable() -> None:
    too_long = {
        path.relative_to(ROOT).as_posix(): count
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 350
    }
    assert not too_long


def test_nothing_imports_the_top_floor() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            assert "import compare" not in text and "from compare" not in text, path
