"""New samples that a network cannot answer for: it has not learned to, or they are not in its units."""

from pathlib import Path

import pytest

from tests.commands import refused
from tests.conftest import Finished
from tests.proteomics_studies import ONE_PLATFORM, PAIRED, experiment, fitted, run
from tests.trained_runs import predict

pytestmark = pytest.mark.filterwarnings("ignore:.*left out")
NORTH = PAIRED[0]
QUICK = ["federation.rounds=1"]


@pytest.fixture(scope="module")
def alone(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Each client alone, each with a scale of its own."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return run(folder, hospitals, "local", *QUICK, "options.preparation.normalization_scope=local")


def test_what_a_network_learns_from_is_noted(hospitals: Path) -> None:
    task = experiment(hospitals).build_task()
    pairs = {client: task.statistics(client).counts["learned"]["pairs"] for client in task.clients()}
    assert pairs[ONE_PLATFORM] == 0 and pairs[NORTH] > 0
    everyone, one, none = (fitted(task, *clients) for clients in ((), (NORTH,), (ONE_PLATFORM,)))
    assert (everyone.clients, everyone.pairs) == (len(pairs), sum(pairs.values()))
    assert (one.clients, one.pairs, none.clients, none.pairs) == (1, pairs[NORTH], 1, 0)


def test_without_pairs_nothing_is_predicted(hospitals: Path, alone: Finished, tmp_path: Path) -> None:
    for platform in "ab":
        new = hospitals / NORTH / f"platform_{platform}.csv"
        result = predict(alone.folder, new, "--out", tmp_path / "out", "--model", ONE_PLATFORM)
        refused(result, new.name, "no sample on both platforms", "hold pairs")
    assert not (tmp_path / "out").exists()


def test_scales_of_several_clients_are_no_scale_for_new_samples(
    hospitals: Path, alone: Finished, tmp_path: Path
) -> None:
    new = hospitals / NORTH / "platform_a.csv"
    done = run(tmp_path / "run", hospitals, "federated", *QUICK, "options.preparation.normalization_scope=local")
    refused(predict(done.folder, new, "--out", tmp_path / "out"), "platform_a.csv", "normalization_scope = local")
    result = predict(alone.folder, new, "--out", tmp_path / "own", "--model", NORTH)
    assert result.exit_code == 0, result.stderr
