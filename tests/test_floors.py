"""What holds of every source file: where it is found, how long it is, and what it may import."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["core", "datasets", "models", "training", "tasks", "centralized", "fl", "reports"]
TOP = ["compare", "tune", "benchmarks"]
"""What stands above all packages."""
DOORS = [ROOT / "models" / "joint_vae" / "__init__.py"]
"""Packages that are called by their own name: `models.joint_vae.build`."""
LONGEST_FILE, LONGEST_FUNCTION = 350, 45


def sources(*names: str) -> list[Path]:
    return [path for name in names for path in [*ROOT.glob(f"{name}.py"), *sorted(ROOT.joinpath(name).rglob("*.py"))]]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function below its signature and docstring."""
    first = function.body[ast.get_docstring(function) is not None :]
    return 1 + function.body[-1].end_lineno - first[0].lineno if first else 0  # type: ignore[operator]


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{path.relative_to(ROOT).as_posix()}: {node.name}", code_lines(node)


def imported(path: Path) -> Iterator[str]:
    """Top-level names of the modules that a file imports."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("name", PACKAGES)
def test_our_packages_resolve_inside_the_repository(name: str) -> None:
    module = importlib.import_module(name)
    assert Path(str(module.__file__)).resolve().parent == ROOT / name


@pytest.mark.parametrize("name", PACKAGES)
def test_package_files_hold_a_docstring_only(name: str) -> None:
    files = [path for path in sources(name) if path.name == "__init__.py" and path not in DOORS]
    assert ROOT / name / "__init__.py" in files
    for path in files:
        module = tree(path)
        assert ast.get_docstring(module) and len(module.body) == 1, path


def test_files_stay_readable() -> None:
    paths = sources(*PACKAGES, *TOP)
    assert {ROOT / "compare.py", ROOT / "tune.py", ROOT / "core" / "errors.py"} <= set(paths)
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in paths}
    assert not {name: count for name, count in lines.items() if count > LONGEST_FILE}


def test_functions_stay_readable() -> None:
    lengths = dict(one for path in sources(*PACKAGES, *TOP, "tests") for one in functions(path))
    assert lengths["tests/test_floors.py: tree"] == 1 and lengths["tests/test_floors.py: imported"] == 5
    assert not {name: count for name, count in lengths.items() if count > LONGEST_FUNCTION}


def test_nothing_imports_the_top_floor() -> None:
    assert {"ast", "pytest", "pathlib"} <= set(imported(Path(__file__)))
    assert not {path: found for path in sources(*PACKAGES) if (found := {*TOP, "tests"} & set(imported(path)))}
