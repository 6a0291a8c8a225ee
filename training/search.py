"""What a hyperparameter search is about, and what becomes of its trials."""

from dataclasses import dataclass

from core.errors import UserError
from core.files import read_json, sha256_json
from training.config import Experiment
from training.preparation import check_leaks, check_names, complete, monitored
from training.runs import Run


class TrialStoppedError(RuntimeError):
    """A trial does worse than the earlier ones did at the same point, and is not worth its time."""


@dataclass(frozen=True)
class Ended:
    """A trial that has come to its end."""

    number: int
    state: str
    """completed, stopped or failed."""
    value: float | None
    """What is searched for; of a stopped trial its last validation."""
    seconds: float
    """From its beginning to its end, breaks between included."""
    reason: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Objective:
    """What a search is about: a metric on validation data."""

    metric: str
    higher_is_better: bool
    data: str
    """SHA-256 of all clients' data."""
    split: str | None
    """SHA-256 of who is in which split."""


def objective(experiment: Experiment) -> Objective:
    """Open the data and say what a search is about.

    Raises:
        UserError: There is no such metric, or the data cannot be used.
    """
    task = experiment.build_task()
    clients = check_names(task.clients(), str(task.data))
    first = {client: task.statistics(client) for client in clients}
    everyone = complete(
        task, first, lambda known: {client: task.further_statistics(client, known) for client in clients}
    )
    split = check_leaks(task, clients)
    data = sha256_json({client: task.data_digest(client) for client in clients})
    return Objective(*monitored(experiment, task, task.fit(everyone, everyone)), data, split)


def score(run: Run, metric: str) -> float:
    """Give the validation metric at the selected epoch or round of a finished run, the mean over local models.

    Raises:
        UserError: It is undefined.
    """
    value = read_json(run.folder / "metrics.json")["best"].get(f"val_{metric}")
    if value is None:
        raise UserError(f"{run.folder / 'metrics.json'}: val_{metric}: undefined; give more validation samples")
    return float(value)
