"""What several commands take they call alike and explain alike."""

from itertools import combinations

import pytest
import typer

import compare
import tune
from centralized.__main__ import app as centralized
from fl.__main__ import app as federated
from tests.commands import refused, run

SHARED = {"overrides", "results", "experiment", "every", "split", "dry_run"}


def options(app: typer.Typer) -> dict[str, str | None]:
    """Give the help of each parameter of a command, of the default one where there are several."""
    command = typer.main.get_command(app)
    command = getattr(command, "commands", {}).get("train", command)
    return {str(one.name): getattr(one, "help", None) for one in command.params}


def test_runners_and_comparison_explain_what_they_share_in_the_same_words() -> None:
    commands = [options(app) for app in (centralized, federated, compare.app)]
    for one, other in combinations(commands, 2):
        assert {name: one[name] for name in SHARED} == {name: other[name] for name in SHARED}
    assert options(centralized)["accept"] == options(federated)["accept"]
    assert options(compare.app)["engine"] == options(federated)["engine"] == options(tune.app)["engine"]


@pytest.mark.parametrize("command", ["centralized", "fl"])
def test_the_config_may_be_left_out_where_a_run_goes_on(command: str) -> None:
    refused(run(command), "CONFIG is missing")
    assert "Missing argument 'CONFIG'" in run("compare").stderr
