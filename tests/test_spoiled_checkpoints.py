"""Checkpoints that are not what the run wrote: damaged, mixed up, of another client or round, lost."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from tests.commands import interrupt, refused, run
from tests.refusals import refused as refused_call
from training import checkpoints

BOTH = pytest.mark.parametrize("command", ["centralized", "fl"])
Cut = Callable[..., Path]


@pytest.fixture
def cut(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Give the folder of a run that Ctrl-C has ended in its third epoch or round."""

    def cut(command: str, *overrides: str, name: str = "cut") -> Path:
        words: list[str | Path] = [
            "train.epochs=4",
            "federation.rounds=4",
            *overrides,
            "--results",
            tmp_path,
            "--name",
            name,
        ]
        with monkeypatch.context() as context:
            interrupt(context, epoch=8 if command == "fl" else 3)
            assert run(command, toy, *words).exit_code == 130
        return tmp_path / "toy_task" / name

    return cut


def only(folder: Path, pattern: str) -> Path:
    (path,) = (folder / "checkpoints").rglob(pattern)
    return path


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def flip_in_tensor(path: Path) -> None:
    """Flip one bit in the middle of the largest tensor."""
    tensors = [value for value in torch.load(path)["state"].values() if value.is_floating_point()]
    needle = max(tensors, key=torch.Tensor.numel).contiguous().numpy().tobytes()
    flip(path, path.read_bytes().index(needle) + len(needle) // 2)


# Damaged


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    content = {"state": {"w": torch.arange(40.0)}, "round": 7, "trainer": {0: [1, None, "two"]}}
    path, refusals = tmp_path / "last.pt", 0
    checkpoints.save(path, content)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole)
        flip(path, place)
        try:
            found = checkpoints.load(path)
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1
            refusals += 1
            continue
        assert torch.equal(found.pop("state")["w"], content["state"]["w"])  # type: ignore[index]
        assert found == {"round": 7, "trainer": {0: [1, None, "two"]}}
    assert refusals > len(whole) / 2


@BOTH
@pytest.mark.parametrize("name", ["last.pt", "best-*.pt"])
def test_a_run_does_not_go_on_from_weights_with_a_flipped_bit(cut: Cut, command: str, name: str) -> None:
    folder = cut(command, "train.select=best")
    path = only(folder, name)
    flip_in_tensor(path)
    if name != "last.pt":  # so that no later epoch is better
        content = checkpoints.load(only(folder, "last.pt"))
        content["selection"]["best_value"] = 2.0
        checkpoints.save(only(folder, "last.pt"), content)
    refused(run(command, "--resume", folder), f"{path}: damaged checkpoint (", "restore the file that the run wrote")


def test_an_empty_checkpoint_says_so(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.touch()
    refused_call(lambda: checkpoints.load(path), "last.pt: damaged checkpoint (the file is empty)", "start a new run")
