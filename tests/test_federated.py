"""The federation against algebra, against the centralized runner, and against itself."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import UserError
from fl.exchange import Part, pack, unpack
from fl.guard import reason_to_reject
from fl.nodes import RoundError
from fl.quorum import check_clients
from fl.server import Server
from fl.strategies import STRATEGIES, Aggregator, Update
from tests.conftest import Go, conduct
from training import checkpoints
from training.config import load
from training.federation import FedAdam, FedAvg, FedAvgM, Federation, FedMedian, Krum, QFedAvg
from training.runs import Run

ONE = "options.names=[ada]"
KEPT = "federation.optimizer_state=kept"


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.optimizer=sgd"],
        [KEPT, "train.schedule={name: cosine, warmup: 3}", "federation.local_epochs=2"],
        [KEPT, "train.schedule={name: plateau, patience: 0}", "train.select=last"],
        [KEPT, "options.batchnorm=true", "options.dropout=0.3", "train.accumulate=2"],
        [KEPT, "options.frozen_front=true", "train.clip_grad_norm=0.1"],
    ],
    ids=["sgd", "adamw cosine", "plateau", "batchnorm dropout", "frozen"],
)
def test_one_client_federated_equals_centralized_bit_for_bit(go: Go, overrides: list[str]) -> None:
    central, federated = go("centralized", ONE, *overrides), go("federated", ONE, *overrides)
    assert central.hashes == federated.hashes
    assert central.value("centralized", "held_out", "loss") == federated.value("federated", "held_out", "loss")


def test_fresh_optimizers_differ_from_kept_ones(go: Go) -> None:
    assert go("federated", ONE).hashes != go("federated", ONE, KEPT).hashes


def test_nodes_and_repeats_change_nothing(go: Go) -> None:
    runs = [go("federated", "options.dropout=0.2", nodes=nodes) for nodes in (1, 2, 3, 2)]
    assert len({run.hashes[0] for run in runs}) == 1
    assert len({(run.folder / "eval_summary.json").read_text() for run in runs}) == 1


def test_the_settings_start_from_equal_weights_and_see_as_many_samples(go: Go) -> None:
    manifests = [go(setting).json("manifest") for setting in ("centralized", "local", "federated")]
    assert len({manifest["initial_sha256"] for manifest in manifests}) == 1
    assert {manifest["budget"]["samples"] for manifest in manifests} == {3 * 3 * 40}
    assert manifests[0]["fitted_sha256"]["centralized"] == manifests[2]["fitted_sha256"]["federated"]


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_runs(go: Go, name: str) -> None:
    run = go("federated", f"federation.strategy={name}", "options.names=[a, b, c, d, e]")
    assert run.json("status")["status"] == "completed"


def test_proximal_pull_keeps_clients_near_the_global_weights(go: Go) -> None:
    base = ["train.select=last", "train.optimizer=sgd", "federation.rounds=1", "train.lr=0.1"]
    free = go("federated", *base).hashes
    assert go("federated", *base, "federation.strategy={name: fedprox, proximal_mu: 0}").hashes == free
    assert go("federated", *base, "federation.strategy={name: fedprox, proximal_mu: 1}").hashes != free


def test_clients_are_sampled_by_a_seeded_rule(go: Go) -> None:
    runs = [
        go("federated", "federation.clients_per_round=2", "federation.rounds=6", f"seed={seed}") for seed in (1, 1, 2)
    ]
    drawn = [[step["participants"] for step in run.json("history")["steps"]] for run in runs]
    assert all(len(set(names)) == 2 for names in drawn[0])
    assert {name for names in drawn[0] for name in names} == {"ada", "bob", "cyd"}
    assert drawn[0] == drawn[1] != drawn[2]


def test_only_what_trains_travels_and_bytes_are_counted(go: Go) -> None:
    run = go("federated", "options.frozen_front=true")
    step, manifest = run.json("history")["steps"][0], run.json("manifest")
    head = (8 * 3 + 3) * 4
    assert step["bytes_up"] == {"ada": head, "bob": head, "cyd": head}
    assert step["bytes_down"] == {"ada": 2 * head, "bob": 2 * head, "cyd": 2 * head}
    assert manifest["bytes"] == {"up": 9 * head, "down": 18 * head, "full_state": head + (4 * 8 + 8) * 4}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedavgm"])
@pytest.mark.parametrize("optimizer_state", ["fresh", "kept"])
def test_a_killed_federation_ends_as_if_it_had_not_been(
    go: Go, start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, strategy: str, optimizer_state: str
) -> None:
    overrides = [
        "federation.rounds=4",
        f"federation.strategy={strategy}",
        f"federation.optimizer_state={optimizer_state}",
    ]
    straight = go("federated", *overrides)
    run = start("federated", *overrides)
    original = Server._validate

    def killed(self: Server, number: int) -> object:
        if number == 3:
            raise Killed
        return original(self, number)

    monkeypatch.setattr(Server, "_validate", killed)
    with pytest.raises(Killed):
        conduct(run)
    monkeypatch.undo()
    conduct(Run.resume(run.folder, ("federated",)))
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert list(manifest["weights_sha256"].values()) == straight.hashes
    summaries = [(folder / "eval_summary.json").read_text() for folder in (run.folder, straight.folder)]
    assert summaries[0] == summaries[1]


def test_a_failing_client_stops_the_run_by_default(start: Callable[..., Run]) -> None:
    run = start("federated", "options.failing=bob")
    with pytest.raises(RoundError, match="bob failed in open: the disk of this client is broken"):
        conduct(run)
    status = json.loads((run.folder / "status.json").read_text())
    assert [(one["client"], one["phase"]) for one in status["failures"]] == [("bob", "open")]
    assert "Traceback" in (run.folder / status["failures"][0]["traceback"]).read_text()


def test_a_failing_client_is_named_when_the_policy_goes_on(go: Go) -> None:
    run = go("federated", "options.failing=bob", "federation.min_clients=2")
    status = run.json("status")
    assert (status["status"], status["exit_code"]) == ("degraded", 3)
    assert {one["client"] for one in status["failures"]} == {"bob"}
    assert {tuple(step["train"]) for step in run.json("history")["steps"]} == {("ada", "cyd")}


def test_refused_input_at_a_client_is_the_users_error(start: Callable[..., Run]) -> None:
    with pytest.raises(UserError, match="column x is missing"):
        conduct(start("federated", "options.failing=refused", "options.names=[refused, bob]"))


def test_a_client_with_nan_is_named(start: Callable[..., Run]) -> None:
    with pytest.raises(RoundError, match="cyd failed in train: cyd: loss nan"):
        conduct(start("federated", "options.nan=cyd"))


def test_an_unknown_metric_is_refused(start: Callable[..., Run]) -> None:
    with pytest.raises(UserError, match=r"train.monitor = 'f2': unknown metric; choose one of loss, accuracy"):
        conduct(start("federated", "train.monitor=f2"))


def test_messages_keep_every_bit() -> None:
    arrays = {"a": np.array([np.pi, -0.0, 1e-45], np.float32), "n": np.array(7), "e": np.zeros((0, 2), np.float64)}
    parts = {"x y": Part({"text": "é", "number": 0.1}, {"one": arrays}), "z": Part({})}
    back = unpack(pack(parts))
    assert {name: part.info for name, part in back.items()} == {"x y": {"text": "é", "number": 0.1}, "z": {}}
    for name, array in back["x y"].arrays["one"].items():
        assert array.dtype == arrays[name].dtype and array.shape == arrays[name].shape
        assert array.tobytes() == arrays[name].tobytes()


GLOBAL = {"w": np.array([1.0, 2.0], np.float32), "n": np.array(3)}


def good() -> Part:
    return Part({"samples": 5}, {"update": {"w": np.array([1.0, 1.0], np.float32), "n": np.array(4)}})


def test_a_good_update_passes() -> None:
    assert reason_to_reject(good(), GLOBAL, 5) is None


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("w", np.array([np.nan, 0], np.float32), "w: holds NaN or infinity"),
        ("w", np.array([np.inf, 0], np.float32), "w: holds NaN or infinity"),
        ("w", np.array([1.0], np.float32), r"w: shape \(1,\) instead of \(2,\)"),
        ("w", np.array([1.0, 1.0]), "w: type float64 instead of float32"),
        ("v", np.array([1.0]), "unknown weights: v"),
        ("w", None, "weights missing: w"),
    ],
)
def test_bad_updates_are_rejected_by_name(name: str, value: np.ndarray | None, reason: str) -> None:
    part = good()
    if value is None:
        del part.arrays["update"][name]
    else:
        part.arrays["update"][name] = value
    assert re.match(reason, str(reason_to_reject(part, GLOBAL, 5)))


@pytest.mark.parametrize("samples", [0, -10, None, 2.5, 10**12, True])
def test_bad_sample_counts_are_rejected(samples: object) -> None:
    part = good()
    part.info["samples"] = samples
    assert reason_to_reject(part, GLOBAL, 5) == f"claims {samples!r} training samples instead of 5"


def update(value: float, samples: int, loss: float = 1.0) -> Update:
    return Update({"w": np.array([value], np.float32), "n": np.array(samples)}, samples, loss)


START = {"w": np.array([0.0], np.float32), "n": np.array(0)}


def aggregate(options: object, updates: dict[str, Update], rounds: int = 1) -> list[float]:
    aggregator = Aggregator(options, {"w"})  # type: ignore[arg-type]
    arrays, values = START, []
    for number in range(1, rounds + 1):
        aggregator.configure(number, arrays)
        arrays = aggregator.aggregate(number, arrays, updates)
        values.append(float(arrays["w"][0]))
    assert arrays["n"].dtype == START["n"].dtype
    assert int(arrays["n"]) == max(int(one.arrays["n"]) for one in updates.values())
    return values


def test_aggregation_by_hand() -> None:
    two = {"a": update(1.0, 1), "b": update(4.0, 3)}
    three = {"a": update(0.0, 1), "b": update(1.0, 1), "c": update(100.0, 1)}
    assert aggregate(FedAvg(), two) == [pytest.approx((1 + 12) / 4)]
    assert aggregate(FedMedian(), three) == [1.0]
    assert aggregate(Krum(num_malicious_nodes=0), three)[0] in (0.0, 1.0)
    # Momentum: the pseudo-gradient is old - average; v = 0.5 v + g; new = old - v.
    assert aggregate(FedAvgM(server_momentum=0.5), {"a": update(2.0, 1)}, 2) == [2.0, 2.0 + 0.5 * 2.0]
    # q = 0 is the unweighted mean of the updates.
    assert aggregate(QFedAvg(q=0.0), two) == [pytest.approx(2.5)]
    # Adam by the formula of Reddi et al., with Flower's bias correction (exponent round + 1).
    step = 0.1 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2) * 0.1 * 2 / (np.sqrt(0.01 * 4) + 1e-3)
    assert aggregate(FedAdam(eta=0.1), {"a": update(2.0, 1)}) == [pytest.approx(step, rel=1e-6)]


HALF_STEP = "{name: fedavgm, server_learning_rate: 0.5}"


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi", "fedadagrad", HALF_STEP, "qfedavg"])
def test_optimizers_on_the_server_leave_buffers_to_the_average(go: Go, strategy: str) -> None:
    overrides = ["options.batchnorm=true", "federation.rounds=1", "train.select=last"]
    states = []
    for name in ("fedavg", strategy):
        run = go("federated", *overrides, f"federation.strategy={name}")
        states.append(checkpoints.load(run.folder / "model_final.pt")["state"])
    for buffer in ("front.1.running_mean", "front.1.running_var", "front.1.num_batches_tracked"):
        torch.testing.assert_close(states[0][buffer], states[1][buffer])
    assert not torch.equal(states[0]["head.weight"], states[1]["head.weight"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.schedule=plateau"], "train.schedule = plateau"),
        (["federation.clients_per_round=4"], "federation.clients_per_round = 4: there are 3 clients"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    start: Callable[..., Run], overrides: list[str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        conduct(start("federated", *overrides))


def test_failures_before_and_after_a_resume_are_kept(go: Go, start: Callable[..., Run]) -> None:
    run = start("federated", "options.failing=bob", "federation.min_clients=2")
    conduct(run)
    before = json.loads((run.folder / "status.json").read_text())["failures"]
    run.set_status("running")
    again = Run.resume(run.folder, ("federated",))
    conduct(again)
    after = json.loads((run.folder / "status.json").read_text())
    assert after["status"] == "degraded"
    assert all(failure in after["failures"] for failure in before)


def test_strategies_that_need_more_clients_say_so() -> None:
    with pytest.raises(UserError, match="withstanding num_malicious_nodes = 1 takes 5; add clients"):
        check_clients(Federation(strategy=Krum(num_malicious_nodes=1)), 4)
    with pytest.raises(UserError, match=r"federation\.min_clients = 9: there are 4 clients"):
        check_clients(Federation(min_clients=9), 4)


def test_cached_features_change_nothing_but_time(go: Go, tmp_path: Path) -> None:
    runs = [go("federated", "options.frozen_front=true", f"train.cache_features={on}") for on in ("true", "false")]
    assert runs[0].hashes == runs[1].hashes


def test_existing_run_folder_is_refused(go: Go, toy: Path) -> None:
    run = go("centralized")
    with pytest.raises(UserError, match="this run folder exists; choose another --name"):
        Run.create(run.folder, load(toy), "centralized")
    with pytest.raises(UserError, match="there is nothing to resume"):
        Run.resume(run.folder, ("centralized",))
    with pytest.raises(UserError, match="resume it with the command that started it"):
        Run.resume(run.folder, ("federated",))
