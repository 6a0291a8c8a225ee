"""Options of a federation that would have no effect, or that only a programmer could read the refusal of."""

import json
from pathlib import Path

import pytest
import yaml

from tests.commands import run
from tests.conftest import TOY
from tests.refusals import refused
from training.config import load
from training.options import WEEK


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("faults=[{kind: nan, round: 4}]", ["federation: faults.0.round = 4: there are 3 rounds; lower it"]),
        (
            "faults=[{kind: nan, round: 3}, {kind: scaled, rate: 1, factor: 1}]",
            ["federation.faults.1.factor = 1: leaves the update as it is; choose another factor"],
        ),
        ("client_timeout=1.0e+300", ["federation.client_timeout = 1e+300", f"less than or equal to {WEEK:.0f}"]),
        ("faults=[{kind: slow, rate: 1, seconds: 1.0e+300}]", ["federation.faults.0.seconds = 1e+300"]),
        ("faults={kind: nan}", ["federation.faults: no list; write [..., ...]"]),
        ("faults=nan", ["federation.faults = 'nan': no list; write [..., ...]"]),
        ("faults=[{rate: 1}]", ["federation.faults.0.kind: missing; choose one of: exception, exit, hang, slow, nan"]),
        ("faults=[3]", ["federation.faults.0 = 3: no section; write {key: value, ...}"]),
        ("strategy=[]", ["federation.strategy = []: no section; write {key: value, ...}"]),
        ("strategy=fedmedain", ["federation.strategy = 'fedmedain': unknown name; did you mean fedmedian?"]),
    ],
)
def test_a_line_names_file_key_value_and_remedy(toy: Path, override: str, parts: list[str]) -> None:
    line = refused(lambda: load(toy, [f"federation.{override}"]), f"{toy}: ", *parts)
    assert not any(word in line for word in ("tuple", "discriminator", "dictionary", "instance", "object"))


def test_more_good_replies_than_clients_are_asked_for_is_refused(toy: Path) -> None:
    both = ["federation.min_clients=3", "federation.clients_per_round=2"]
    refused(lambda: load(toy, both), "min_clients = 3 is more than clients_per_round = 2 can give; lower it")
    assert load(toy, ["federation.min_clients=2", "federation.clients_per_round=2"]).federation.needed(2) == 2


def test_the_longest_time_limit_is_one_that_a_client_can_be_held_to(toy: Path, tmp_path: Path) -> None:
    limit = f"federation.client_timeout={WEEK}"
    result = run("fl", toy, limit, "federation.rounds=1", "--results", tmp_path, "--name", "run")
    assert result.exit_code == 0


def test_a_dry_run_suffers_no_faults(tmp_path: Path) -> None:
    """It makes one round, so that rules for later ones would be refused, and hangs and retries would only take time."""
    faulty = {"rounds": 3, "faults": [{"kind": "exception", "round": 3}, {"kind": "exception", "rate": 1}]}
    config = tmp_path / "faulty.yaml"
    config.write_text(yaml.safe_dump({**TOY, "federation": faulty}))
    assert run("fl", config, "--dry-run", "--results", tmp_path, "--name", "dry").exit_code == 0
    status = json.loads((tmp_path / "toy_task" / "dry" / "status.json").read_text())
    assert (status["status"], status["failures"]) == ("completed", [])
