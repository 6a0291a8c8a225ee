"""`python -m models show` looks into the weights of any run."""

from pathlib import Path

import torch
from click.testing import Result
from typer.testing import CliRunner

from core.errors import UserError
from models.__main__ import app
from tests.conftest import Go


def show(path: Path) -> Result:
    return CliRunner().invoke(app, ["show", str(path)])


def test_the_weights_of_a_run_are_counted_by_part(go: Go) -> None:
    run = go("centralized", "train.epochs=1", "options.batchnorm=true")
    (sha256,) = run.hashes
    path = run.folder / "model_final.pt"
    state = torch.load(path, weights_only=True)["state"]
    parts = {name.split(".")[0]: 0 for name in state}
    for name, tensor in state.items():
        parts[name.split(".")[0]] += tensor.numel()
    assert show(path).stdout.splitlines() == [
        f"{path}: weights of a run",
        f"tensors: {len(state)}",
        f"values: {sum(parts.values())}",
        *(f"  {part}: {count}" for part, count in parts.items()),
        f"sha256: {sha256}",
    ]


def test_what_a_run_goes_on_from_is_shown_too(go: Go) -> None:
    run = go("federated", "federation.rounds=1")
    (path,) = (run.folder / "checkpoints").rglob("last.pt")
    said = show(path).stdout
    assert said.startswith(f"{path}: weights of a run\n") and "sha256" not in said


def test_a_state_of_something_else_is_no_weights_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"fingerprint": "x", "state": {"epoch": 3}}, path)
    found = show(path)
    assert isinstance(found.exception, UserError) and "no state_dict" in str(found.exception)
