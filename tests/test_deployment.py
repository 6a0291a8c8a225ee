"""A deployed federation: one SuperLink, one SuperNode per hospital, each with its own folder and nothing else."""

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl.isolation import Isolation, executables, isolated
from fl.launcher import free_port
from tests.conftest import Finished, conduct
from training.config import load
from training.runs import Run

ROOT = Path(__file__).resolve().parent.parent
OVERRIDES = "federation.rounds=1 federation.local_epochs=1 options.random_backbone.context_length=16"

INSTALLATION = "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"
"""Not set here: the README names an option instead."""

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def superlink(place: Isolation, port: int) -> Iterator[None]:
    home = place.home / "flower"
    home.mkdir()
    (connection,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    connection = connection.replace("SERVER:8000", f"127.0.0.1:{port}")
    (home / "config.toml").write_text(connection.replace('root-certificates = "ca.pem"', "insecure = true"))
    address = ["--insecure", "--host", "127.0.0.1", "--port", str(port)]
    with start(place, "flower-superlink", "--disable-runtime-dependency-installation", *address):
        yield


@contextlib.contextmanager
def start(place: Isolation, *command: str) -> Iterator[None]:
    process = subprocess.Popen(
        [str(executables() / command[0]), *command[1:]],
        env={key: value for key, value in place.environment.items() if key != INSTALLATION},
        cwd=place.home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def hospital(study: Path, folder: Path, name: str | None) -> Path:
    """What one party holds: reference files, and its own cells; the server (no name) holds the held-out set."""
    shutil.copytree(study / "reference", folder / "reference")
    if name:
        shutil.copytree(study / "clients" / name, folder / "clients" / name)
    else:
        shutil.copy(study / "held_out.h5ad", folder / "held_out.h5ad")
    return folder


def test_hospitals_with_their_own_folders_reach_the_weights_of_the_simulation(study: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (study / "clients").iterdir())
    server = hospital(study, tmp_path / "server", None)
    with isolated() as place, contextlib.ExitStack() as stack:
        port = free_port()
        stack.enter_context(superlink(place, port))
        for name in names:
            folder = hospital(study, tmp_path / name, name)
            node = f'data="{folder}" workspace="{tmp_path / "work" / name}"'
            address = ["--superlink", f"127.0.0.1:{port}", "--port", str(free_port())]
            stack.enter_context(start(place, "flower-supernode", "--insecure", *address, "--node-config", node))
        config = f"config='configs/nicheformer.yaml' overrides='{OVERRIDES}' nodes=3"
        paths = f"data='{server}' results='{tmp_path / 'results'}'"
        command = [
            str(executables() / "flwr"),
            "run",
            str(ROOT),
            "hospitals",
            "--stream",
            "--run-config",
            f"{config} {paths}",
        ]
        for _ in range(20):  # the SuperLink takes a while to answer
            done = subprocess.run(
                command, env=place.environment, cwd=place.home, capture_output=True, text=True, timeout=480, check=False
            )
            if "Successfully started run" in done.stdout:
                break
            time.sleep(1)
    (folder,) = (tmp_path / "results").glob("nicheformer/*")
    deployed = Finished(folder)
    assert deployed.json("status")["status"] == "completed", done.stdout[-2000:]

    overrides = [f"options.data={study}", *OVERRIDES.split()]
    simulated = Run.create(tmp_path / "simulated", load(ROOT / "configs" / "nicheformer.yaml", overrides), "federated")
    conduct(simulated)
    assert deployed.hashes == Finished(simulated.folder).hashes
    assert (folder / "eval_summary.json").read_text() == (simulated.folder / "eval_summary.json").read_text()
    kept = {path.name for path in tmp_path.glob("work/*/*/predictions/*")}
    assert kept == {f"federated__{name}.npz" for name in names}
    assert [path.name for path in (folder / "predictions").iterdir()] == ["federated__held_out.npz"]
