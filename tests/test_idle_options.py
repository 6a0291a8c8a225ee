"""An option without effect: refused where others of the config leave it none, said where device or setting do."""

import json
from collections.abc import Callable

import pytest

from centralized.runner import execute
from fl.engines import in_process
from tests.commands import refused, run
from training.device import effective_precision
from training.runs import Run

Start = Callable[..., Run]
NO_EFFECT = "has no effect here; "


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.cache_features=false", "train.cache_limit_gb=1"], f"train: cache_limit_gb {NO_EFFECT}set cache_fea"),
        (["train.schedule.per=epoch"], f"train.schedule: per {NO_EFFECT}a constant rate without warm-up"),
        (["train.optimizer={name: sgd, nesterov: true}"], f"train.optimizer: nesterov {NO_EFFECT}set momentum"),
    ],
)
def test_an_option_that_others_leave_without_effect_is_refused(overrides: list[str], expected: str) -> None:
    refused(run("centralized", "configs/nicheformer.yaml", "train.schedule=constant", *overrides), expected)


@pytest.mark.parametrize(
    "schedule", ["{name: constant, per: epoch, warmup: 2}", "{name: cosine, per: epoch}", "{name: step, every: 1}"]
)
def test_where_it_counts_something_it_is_taken(schedule: str, start: Start) -> None:
    start("centralized", f"train.schedule={schedule}")


@pytest.mark.parametrize(
    ("device", "asked", "effective"),
    [("cuda", "fp16", "fp16"), ("cpu", "fp16", "fp32"), ("cpu", "bf16", "bf16"), ("mps", "bf16", "fp32")],
)
def test_the_device_decides_what_is_computed_in(device: str, asked: str, effective: str) -> None:
    assert effective_precision(device, asked) == effective  # type: ignore[arg-type]


def outcome(run: Run) -> tuple[str, str]:
    manifest = json.loads((run.folder / "manifest.json").read_text())
    return (run.folder / "log.txt").read_text(), manifest["precision"]


def test_a_run_says_what_its_device_has_no_use_for(start: Start) -> None:
    run = start("centralized", "train.device=cpu", "train.precision=fp16", "train.oom_limit=3")
    execute(run)
    log, precision = outcome(run)
    assert "train.precision = fp16: has no effect on cpu, which computes in fp32" in log
    assert "train.oom_limit = 3: has no effect on cpu" in log
    assert precision == "fp32"


def test_a_federated_run_says_what_its_setting_and_engine_have_no_use_for(start: Start) -> None:
    run = start(
        "federated", "train.epochs=7", "federation.rounds=1", "federation.workers=2", "federation.cpus_per_client=4"
    )
    in_process(run)
    log, _ = outcome(run)
    assert "train.epochs = 7: has no effect in the federated setting, where federation.rounds x" in log
    assert "federation.workers = 2: has no effect with --engine inprocess" in log
    assert "federation.cpus_per_client = 4: has no effect with --engine inprocess" in log


def test_an_equal_budget_says_nothing(start: Start) -> None:
    run = start("federated", "train.epochs=1", "federation.rounds=1", "federation.local_epochs=1")
    in_process(run)
    assert "has no effect" not in outcome(run)[0]
