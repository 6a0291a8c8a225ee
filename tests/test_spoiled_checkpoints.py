"""Checkpoints that are not what the run wrote: damaged, mixed up, of another client or round, lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from flwr.app import Context, Message

from core.errors import UserError
from fl import client_app
from tests.commands import interrupt, refused, run
from tests.conftest import Go, conduct
from tests.refusals import refused as refused_call
from training import checkpoints
from training.runs import Run

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
            interrupt(context, epoch={"centralized": 3, "local": 6, "fl": 8}[command])
            assert started(command, toy, *words).exit_code == 130
        return tmp_path / "toy_task" / name

    return cut


def started(command: str, *words: str | Path) -> Result:
    return run("centralized", *words, "--setting", "local") if command == "local" else run(command, *words)


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


# What a client keeps


KEEPING = ("federation.optimizer_state=kept", "options.personal_head=true")


def state_of(folder: Path, client: str) -> Path:
    return only(folder, f"{client}/round-000002.pt")


def lose(folder: Path) -> None:
    state_of(folder, "bob").unlink()


def lose_all(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints" / "clients")


def swap(folder: Path) -> None:
    shutil.copy(state_of(folder, "cyd"), state_of(folder, "bob"))


def take_an_earlier_one(folder: Path) -> None:
    shutil.copy(only(folder, "bob/round-000001.pt"), state_of(folder, "bob"))


def damage(folder: Path) -> None:
    path = state_of(folder, "bob")
    needle = checkpoints.load(path)["personal"]["head.weight"].numpy().tobytes()
    flip(path, path.read_bytes().index(needle) + 5)


SPOILED = {
    "lost": (lose, "bob", "no such checkpoint"),
    "all lost": (lose_all, "ada", "no such checkpoint"),
    "swapped": (swap, "bob", "of client cyd, where that of client bob belongs"),
    "earlier": (take_an_earlier_one, "bob", "of round 1, where that of round 2 belongs"),
    "damaged": (damage, "bob", "damaged checkpoint"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_client_does_not_go_on_without_what_it_kept(cut: Cut, case: str) -> None:
    spoil, client, expected = SPOILED[case]
    folder = cut("fl", *KEEPING, "train.select=last")
    path = state_of(folder, client)
    spoil(folder)
    refused(run("fl", "--resume", folder), f"{path}: {expected}", "restore the file that the run wrote, or start a new")


def test_a_state_of_another_network_is_refused(cut: Cut) -> None:
    folder, other = cut("fl", *KEEPING), cut("fl", *KEEPING, "options.hidden=9", name="other")
    shutil.copy(state_of(other, "bob"), state_of(folder, "bob"))
    refused(run("fl", "--resume", folder), f"{state_of(folder, 'bob')}: fingerprint ", "does not fit")


def test_a_round_that_was_not_taken_leaves_nothing_behind(go: Go) -> None:
    """A rejected update and the state that came with it: in the next round the client is where it was before."""
    nan = "{kind: nan, client: bob, round: 2}"
    ruined = go("federated", *KEEPING, "federation.on_client_failure=continue", f"federation.faults=[{nan}]")
    (rejected,) = ruined.json("status")["failures"]
    assert (rejected["client"], rejected["kind"], rejected["step"]) == ("bob", "rejected", 2)
    skipping = "{kind: exception, client: bob, round: 2}"
    absent = go("federated", *KEEPING, "federation.on_client_failure=continue", f"federation.faults=[{skipping}]")
    assert ruined.hashes == absent.hashes
    states = [checkpoints.load(only(one.folder, "bob/round-000003.pt"))["trainer"] for one in (ruined, absent)]
    assert repr(states[0]) == repr(states[1])


def test_no_node_learns_what_other_clients_are_told(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[list[str], list[str]]] = []
    original = client_app._with_session

    def spied(message: Message, context: Context, act: Any) -> Message:
        request = client_app._request(message)
        told.append((request["clients"], list(request["own"])))
        return original(message, context, act)

    monkeypatch.setattr(client_app, "_with_session", spied)
    conduct(start("federated", *KEEPING))
    trained = [(names, own) for names, own in told if own]
    assert trained and all(names == own for names, own in trained)


# Mixed up


@BOTH
def test_a_checkpoint_of_another_kind_is_refused(cut: Cut, command: str) -> None:
    folder = cut(command, "train.select=best")
    path = only(folder, "last.pt")
    shutil.copy(only(folder, "best-*.pt"), path)
    refused(run(command, "--resume", folder), f"{path}: holds no basis, so it is another kind of checkpoint; restore")


@BOTH
def test_best_weights_of_another_step_are_refused(cut: Cut, command: str) -> None:
    folder = cut(command, "train.select=best")
    best, last = only(folder, "best-*.pt"), only(folder, "last.pt")
    content = checkpoints.load(last)
    content["selection"] |= {"best_step": 9, "best_value": 2.0}
    checkpoints.save(last, content)
    best.rename(best.with_name("best-9.pt"))
    unit = "round" if command == "fl" else "epoch"
    refused(run(command, "--resume", folder), f"best-9.pt: of {unit} ", f", where that of {unit} 9 belongs; restore")


@pytest.mark.parametrize("text", ["[]", '{"train round 3": 2}'])
def test_a_list_of_deaths_that_is_none_is_refused(cut: Cut, text: str) -> None:
    path = cut("fl") / "deaths.json"
    path.write_text(text)
    refused(run("fl", "--resume", path.parent), f"{path}: not written by a run; remove the file")


# History


@pytest.mark.parametrize("text", [None, "[]", '{"unit": "round", "steps": []}', "no json"])
@pytest.mark.parametrize("command", ["centralized", "local", "fl"])
def test_a_history_that_was_lost_is_restored(cut: Cut, command: str, text: str | None) -> None:
    folder, whole = cut(command), cut(command, name="whole")
    path = folder / "history.json"
    path.unlink() if text is None else path.write_text(text)
    for one in (folder, whole):
        assert run("fl" if command == "fl" else "centralized", "--resume", one).exit_code == 0
    histories = [json.loads((one / "history.json").read_text()) for one in (folder, whole)]
    assert [step["step"] for step in histories[0]["steps"]] == [1, 2, 3, 4]
    assert without_times(histories[0]) == without_times(histories[1])


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key != "seconds"}
    return [without_times(one) for one in value] if isinstance(value, list) else value
