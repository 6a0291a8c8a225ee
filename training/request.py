"""What a command line asks of a runner, and the answer, in the same way for both."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError
from training import checkpoints
from training.config import Experiment, entries_of, load
from training.distributed import ALONE, Group
from training.experiments import own_values, place
from training.matrix import Matrix, Place, conduct_run
from training.runs import EXIT_CODES, FollowingRun, Run, Setting, Status, check_name
from training.session import DRY_RUN, conduct, run_name, task_stem
from training.split_file import check_split


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options that all commands share; a run is started from `config`, or gone on with in `resume`."""

    config: Path | None
    overrides: Sequence[str]
    results: Path
    name: str = ""
    resume: Path | None = None
    accept: Sequence[checkpoints.Acceptable] = ()
    experiment: str = ""
    every: bool = False
    split: Path | None = None
    dry_run: bool = False
    check: Callable[[Experiment], None] = lambda experiment: None
    """Refuses a plain experiment that could only fail, before anything is written."""

    @property
    def values(self) -> list[str]:
        """Overrides, those of a dry run included."""
        return [*self.overrides, *(DRY_RUN if self.dry_run else ())]

    def load(self) -> Experiment:
        """Read the plain experiment of the file, and check its split.

        Raises:
            UserError: It cannot be used, or its data splits otherwise.
        """
        if not self.config:
            raise UserError("CONFIG is missing; name a file of configs/, or use --resume RUN")
        experiment = load(self.config, self.values)
        if self.split:
            check_split(self.split, experiment)
        try:
            self.check(experiment)
        except UserError as error:
            raise UserError(f"{self.config}: {error}") from None
        return experiment

    def matrix(self, setting: str, *, seeds: Sequence[int] | None = None, group: Group = ALONE) -> Matrix | None:
        """Give the experiments that are asked for; None where it is the plain file.

        All are resolved before any of them is run, so that a mistake in one shows at once. Where the command line takes
        an experiment's own values away, a line says so.

        Args:
            setting: Names the folder of the places.
            seeds: Each place holds the runs of these; None where it holds one.
            group: The processes that train together.

        Raises:
            UserError: Options contradict each other, or the file or one of the experiments cannot be used.
        """
        if not (self.experiment or self.every):
            return None
        config = self._config_of_many(group)
        entries = entries_of(config)
        names = [self.experiment] if self.experiment else list(entries)
        if not names:
            raise UserError(f"{config}: --all: lists no experiments; add `experiments:` or leave out --all")
        experiments = [load(config, self.values, experiment=one) for one in names]
        for name in names:
            if seeds and "seed" in entries[name].overrides:
                raise UserError(f"{place(str(config), name)}: sets its own seed; leave out --seeds, or that seed")
            if group.leads and (own := own_values(entries[name], self.values)):
                print(f"experiment {name}: the command line replaces its own {', '.join(own)}", flush=True)
        stem = check_name(self.name) or f"{'dry-run__' if self.dry_run else ''}{config.stem}"
        folder = self.results / task_stem(experiments[0]) / stem / setting
        return Matrix(
            [Place(one, folder / one.experiment) for one in experiments],
            folder,
            [*entries],
            self.split,
            seeds is not None,
        )

    def _config_of_many(self, group: Group) -> Path:
        if self.experiment and self.every:
            raise UserError(f"--all: runs every experiment; leave out --experiment {self.experiment}, or --all")
        if self.every and group.size > 1:
            raise UserError("torchrun: --all: several processes train one experiment; name it with --experiment")
        if self.resume:
            raise UserError(
                f"--resume {self.resume}: goes on with the run's own config; leave out --experiment and --all"
            )
        if not self.config:
            raise UserError("CONFIG is missing; name a file of configs/ that lists `experiments:`")
        return self.config

    def run(self, setting: Setting, resumable: Sequence[Setting], group: Group = ALONE) -> Run:
        """Start a new run, or reopen one.

        Of several processes the first does so, and the others follow it into the same folder.

        Raises:
            UserError: Neither or both were named, or one cannot be used.
        """
        folder = Path()
        with group.first_leads():
            if group.leads:
                run = self._open(setting, resumable, group.size)
                checkpoints.accept(run.folder, self.accept)
                folder = run.folder
        (folder, *_) = group.gather(folder)
        return run if group.leads else FollowingRun.attach(folder)

    def _open(self, setting: Setting, resumable: Sequence[Setting], processes: int) -> Run:
        if not self.resume:
            experiment = self.load()
            name = check_name(self.name) or run_name(experiment, setting, processes, dry_run=self.dry_run)
            return Run.create(self.results / task_stem(experiment) / name, experiment, setting)
        if self.config or self.overrides or self.name or self.dry_run or self.split:
            others = "CONFIG, overrides, --name, --dry-run and --split"
            raise UserError(f"--resume {self.resume}: goes on with the run's own config; leave out {others}")
        return Run.resume(self.resume, resumable)


def answer(
    request: Request,
    setting: Setting,
    execute: Callable[[Run], Status],
    *,
    resumable: Sequence[Setting],
    report: Callable[[Path], None],
    summarise: Callable[[Path, Mapping[str, str]], Path],
    group: Group = ALONE,
) -> int:
    """Conduct what is asked for; give the exit code.

    Args:
        request: The command line.
        setting: Centralized, local or federated.
        execute: Conducts one run.
        resumable: Settings of runs that this command goes on with.
        report: Called with the folder of each run that has come to its end.
        summarise: Writes the summary of several experiments, from their folder and what was done.
        group: The processes that train together.

    Raises:
        UserError: It cannot be done.
    """
    checkpoints.check_accept(request.accept, request.resume)
    with group.first_leads():
        matrix = request.matrix(setting, group=group)
    if matrix:
        code = matrix.conduct(lambda place: conduct_run(place, matrix, setting, execute, report, group))
        if group.leads:
            print(f"summary: {summarise(matrix.folder, matrix.done)}")
        return code
    run = request.run(setting, resumable, group)
    try:
        status = conduct(run, execute)
        if group.leads:
            report(run.folder)
    finally:
        run.release()
    return EXIT_CODES[status]
