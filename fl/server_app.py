"""The Flower ServerApp of every task: finds its run folder through the run config and conducts the run."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl.deaths import WorkersDiedError
from fl.server import serve
from training.config import load
from training.provenance import ROOT
from training.runs import Run
from training.session import run_name, task_stem

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct a federated run; any failure is in status.json, and Flower records the run as failed.

    After the death of workers the status stays `running`: a launcher starts anew, and --resume does the same.
    """
    config = {key: str(value) for key, value in context.run_config.items()}
    run = Run.attach(Path(config["run"])) if config["run"] else _new_run(config)
    try:
        serve(run, grid, int(config["nodes"]))
    except WorkersDiedError as error:
        run.log(f"{error}; the run goes on in a new launch")
        raise
    except Exception as error:
        run.fail(error)
        raise
    if not config["run"]:
        run.log(f"for the report: python -m reports {run.folder}")


def _new_run(config: dict[str, str]) -> Run:
    """Start a run folder for a bare `flwr run`, where no launcher did."""
    path = Path(config["config"])
    overrides = [*config["overrides"].split(), *([f"options.data={config['data']}"] if config["data"] else [])]
    experiment = load(path if path.exists() else ROOT / path, overrides, experiment=config["experiment"])
    results = Path(config["results"] or "results")
    folder = results / task_stem(experiment) / run_name(experiment, "federated")
    run = Run.create(folder.resolve(), experiment, "federated")
    run.log(f"run folder: {run.folder}")
    return run
