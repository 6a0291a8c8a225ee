"""Every command of the README and of docs/, run in a copy of the project, in their order; long ones made smaller."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl.isolation import isolated
from fl.launcher import free_port
from tests.new_task import write_files

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]
TASKS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
SHORT = "federation.rounds=1 federation.local_epochs=1"
TRAINING = {
    "python compare.py": f"{SHORT} --engine inprocess",
    "python -m centralized configs/": SHORT,
    "torchrun": SHORT,
    "python -m fl configs/": SHORT,
}
SHORTER = {**TRAINING, "python tune.py": SHORT, "snakemake": f"'overrides={SHORT}'"}
REPORTING = (*TRAINING, "python -m reports results/nicheformer")


def commands() -> list[str]:
    """Give the lines of all bash blocks; those about any TASK once for each."""
    lines = [
        line.split("  #")[0].strip()
        for page in PAGES
        for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
        for line in block.splitlines()
        if line and not line.startswith(("export ", "make "))
    ]
    return [line.replace("TASK", task) for line in lines for task in (TASKS if "TASK" in line else [""])]


COMMANDS = commands()

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as a clone has it, with the checkpoint that the README converts and the task that a page shows."""
    folder = tmp_path_factory.mktemp("readme") / "triptych"
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listing.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    shutil.copy(folder / "tests" / "fixtures" / "nicheformer" / "checkpoint.ckpt", folder / "nicheformer.ckpt")
    write_files(folder)
    return folder


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """An environment in which a bare `flwr run` starts its SuperLink on ports of its own, and leaves nothing."""
    with isolated() as place:
        ports = {name: str(free_port()) for name in ("HTTP_API", "CONTROL_API")}
        yield {
            **place.environment,
            "OMP_NUM_THREADS": "1",
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": ports["HTTP_API"],
            "FLWR_LOCAL_CONTROL_API_PORT": ports["CONTROL_API"],
        }


def runnable(command: str, folder: Path) -> list[str]:
    shorter = next((more for start, more in SHORTER.items() if command.startswith(start)), "")
    words = shlex.split(f"{command} {shorter}")
    modules = {"torchrun": "torch.distributed.run", "snakemake": "snakemake"}
    starts = {"python": [sys.executable], **{word: [sys.executable, "-m", name] for word, name in modules.items()}}
    words[:1] = starts.get(words[0], words[:1])
    runs = sorted(folder.glob("results/nicheformer/federated__*"))
    return [str(runs[-1]) if word.endswith("/RUN") else word for word in words]


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) >= 12 + 2 * len(TASKS)
    assert "make demo" in README and "make test" in README


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_the_readme(command: str, copy: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        runnable(command, copy), cwd=copy, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if "flwr run" in command:
        assert "federated  round 2/2" in done.stdout
        assert "for the report: python -m reports" in done.stdout
    elif command.startswith("python -m reports table"):
        assert "best_primary" in (copy / command.split()[-1]).read_text()
    elif command.startswith(REPORTING) and "--all" not in command:
        page = Path(re.findall(r"report: (.*)", done.stdout)[-1])
        assert (copy / page).exists()


def test_make_demo(copy: Path, environment: dict[str, str]) -> None:
    """The first of the two commands, with two batches of everything, in the environment that the tests run in."""
    (copy / "venv").symlink_to(sys.prefix)
    done = subprocess.run(
        ["make", "--old-file=venv/installed", "demo", "VENV=venv", "ARGS=--dry-run"],
        cwd=copy, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    report = copy / re.findall(r"report: (.*)", done.stdout)[-1]
    page = report.read_text()
    for words in ("centralized", "local", "federated", "hospital_north", "hospital_south", "hospital_west", "held-out"):
        assert words in page
    assert report.stat().st_size > 50_000
