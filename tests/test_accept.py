"""What a run that was cut off goes on from: the same config, data and code, or others that the user names."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.files import atomic
from tests.commands import interrupt, refused, run
from tests.toy_task import Points

BOTH = pytest.mark.parametrize("command", ["centralized", "fl"])


def interrupted(toy: Path, results: Path, command: str, patch: pytest.MonkeyPatch) -> Path:
    """A run that ended in the middle of its fourth epoch."""
    with patch.context() as context:
        interrupt(context, epoch=4)
        words = ["train.epochs=5", "federation.rounds=3", "--results", results, "--name", "cut"]
        assert run(command, toy, *words).exit_code == 130
    return results / "toy_task" / "cut"


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


@BOTH
def test_other_code_is_refused_unless_named(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    folder = interrupted(toy, tmp_path, command, monkeypatch)
    monkeypatch.setattr("training.preparation.code_digest", lambda task: "0123456789ab")
    line = refused(run(command, "--resume", folder), "last.pt: made with other code (", ", now 0123456789ab)")
    assert line.endswith("restore the code it was made with, go on with --accept code, or start a new run")
    refused(run(command, "--resume", folder, "--accept", "data"), "made with other code")
    assert run(command, "--resume", folder, "--accept", "code").exit_code == 0
    (before,) = next(iter(manifest(folder)["accepted"].values()))["code"]
    assert before != "0123456789ab" and len(before) == 12
    assert ", although made with other code (--accept)" in (folder / "log.txt").read_text()


@BOTH
def test_other_data_is_refused_unless_named(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    folder = interrupted(toy, tmp_path, command, monkeypatch)
    monkeypatch.setattr(Points, "data_digest", lambda self, client: "rewritten")
    refused(run(command, "--resume", folder), "made with other data (", "go on with --accept data, or start a new run")
    assert run(command, "--resume", folder, "--accept", "data").exit_code == 0
    assert list(next(iter(manifest(folder)["accepted"].values()))) == ["data"]


@BOTH
def test_another_held_out_set_is_other_data(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    folder = interrupted(toy, tmp_path, command, monkeypatch)
    original = Points.data_digest
    monkeypatch.setattr(Points, "data_digest", lambda self, name: original(self, name) + " anew" * (name == "held_out"))
    refused(run(command, "--resume", folder), "made with other data (", "go on with --accept data, or start a new run")
    assert run(command, "--resume", folder, "--accept", "data").exit_code == 0
    assert manifest(folder)["data"]["held_out"].endswith(" anew")


@BOTH
def test_another_config_is_never_accepted(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    folder = interrupted(toy, tmp_path, command, monkeypatch)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.02", "lr: 0.03"))
    accepting = ["--accept", "code", "--accept", "data"]
    line = refused(run(command, "--resume", folder, *accepting), "last.pt: made with other config (")
    assert "--accept" not in line
    assert run(command, "--resume", folder, "--accept", "config").exit_code == 2


@BOTH
def test_what_was_accepted_once_is_not_accepted_for_ever(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    folder = interrupted(toy, tmp_path, command, monkeypatch)
    (folder / "accepted.json").write_text('["code", "data"]')
    monkeypatch.setattr("training.preparation.code_digest", lambda task: "0123456789ab")
    refused(run(command, "--resume", folder), "made with other code")


@BOTH
def test_what_a_killed_process_was_writing_is_cleared_away(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    folder = interrupted(toy, tmp_path, command, monkeypatch)
    with pytest.raises(KeyboardInterrupt), atomic(folder / "checkpoints" / "last.pt") as half_written:
        half_written.write_text("half")
        left = half_written.with_name(half_written.name.replace("last", "best"))
        left.write_text("half")
        raise KeyboardInterrupt
    assert left.exists() and not half_written.exists()
    assert run(command, "--resume", folder).exit_code == 0
    assert not left.exists()


@BOTH
def test_a_new_run_has_nothing_to_accept(toy: Path, tmp_path: Path, command: str) -> None:
    words = ["--results", tmp_path, "--name", "new", "--accept", "code"]
    refused(run(command, toy, *words), "--accept code: has no effect on a new run; use it with --resume RUN")
    assert not (tmp_path / "toy_task").exists()


@BOTH
def test_a_run_that_was_not_touched_accepts_nothing(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    folder = interrupted(toy, tmp_path, command, monkeypatch)
    assert run(command, "--resume", folder, "--accept", "code").exit_code == 0
    assert manifest(folder)["accepted"] == {}
