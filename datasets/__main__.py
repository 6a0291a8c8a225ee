"""`python -m datasets NAME DIR`: make a small data set in the real format of a task; or split data by whole groups.

`split` reads a table of images, `rosette-split` a folder of HDF5 files, `proteomics-split` the tables of two platforms.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

import datasets.synthetic
from core.commands import one_line_errors
from core.errors import UserError
from datasets import rosette_splits
from datasets.histology_splits import Draw, write_splits
from datasets.proteomics_splits import split_files
from datasets.rosette_samples import REPLICATE, GroupBy, read_samples
from datasets.unit_splits import SPLITS

MAKERS = tuple(sorted(module.name for module in pkgutil.iter_modules(datasets.synthetic.__path__)))


class Commands(TyperGroup):
    """Refuses an unknown name in one line."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first argument names."""
        with one_line_errors():
            if args[0] not in self.commands:
                raise UserError(f"NAME: {args[0]!r} is not a synthetic data set; choose one of {', '.join(MAKERS)}")
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def main() -> None:
    """Make small synthetic data sets in the real format of each task, or split images and samples by whole groups."""


@app.command()
def split(
    metadata: Annotated[Path, typer.Argument(metavar="METADATA.csv", help="One image per row.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.csv", help="The split; its record goes to OUT.json.")],
    seed: Annotated[int, typer.Option(help="The same seed draws the same groups.")] = 42,
    val_ratio: Annotated[
        float | None, typer.Option(help="Share of the groups for val; by default 0.2, without folds.")
    ] = None,
    test_ratio: Annotated[float | None, typer.Option(help="Share of the groups for test; by default none.")] = None,
    folds: Annotated[int | None, typer.Option(help="Write OUT_fold1.csv, ...: each group is in val once.")] = None,
    group_col: Annotated[str, typer.Option(help="Column of the patient, slide or donor.")] = "group_id",
    path_col: Annotated[str, typer.Option(help="Column of the image file.")] = "path",
    client_col: Annotated[str | None, typer.Option(help="Column of the data holder: split each by itself.")] = None,
) -> None:
    """Divide images into train, val and test by whole groups, as `options.split` of configs/image_expression.yaml.

    Exit code 2 when that cannot be done.
    """
    with one_line_errors():
        draw = Draw(seed, val_ratio, test_ratio, folds)
        records = write_splits(metadata, out, draw, group_col=group_col, path_col=path_col, client_col=client_col)
    table = Table("file", "split", "samples", "share", "groups", "share", title=str(out.parent))
    for record in records:
        for name, counts in ((key, value) for key, value in record.items() if isinstance(value, dict)):
            samples, groups = (f"{counts[f'{kind}_share']:.1%}" for kind in ("sample", "group"))
            table.add_row(record["file"], name, str(counts["samples"]), samples, str(counts["groups"]), groups)
    Console().print(table)


@app.command()
def rosette_split(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder with the HDF5 files.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The manifest, .json; or with --experiment its folder.")],
    group_by: Annotated[GroupBy, typer.Option(help="What is never in two splits.")] = "animal",
    val_fraction: Annotated[float, typer.Option(help="Share of the groups for val, rounded up.")] = 0.2,
    test_fraction: Annotated[float | None, typer.Option(help="Share for test; by default there is no test.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same groups.")] = 42,
    client_col: Annotated[str | None, typer.Option(help="Column of the data holder: split each by itself.")] = None,
    metadata: Annotated[Path | None, typer.Option(help="As options.metadata; by default metadata.csv, or ids.")] = None,
    experiment: Annotated[str, typer.Option(help="Name the manifest split_manifest_EXPERIMENT.json.")] = "",
) -> None:
    """Divide images of rosettes into train, val and test, as `options.split` of configs/attention_unet.yaml.

    Exit code 2 when that cannot be done.
    """
    with one_line_errors():
        path = rosette_splits.manifest_path(out, experiment) if experiment else out
        if path.suffix != ".json":
            raise UserError(f"{out}: the manifest must end in .json; give such a name, or --experiment")
        needed = [*([client_col] if client_col else []), *([REPLICATE] if group_by == REPLICATE else [])]
        samples = read_samples(data, metadata, needed=needed)
        draw = rosette_splits.Draw(val_fraction, test_fraction, seed)
        content = rosette_splits.write_manifest(path, samples, draw, group_by=group_by, client_key=client_col)
    table = Table("split", "samples", "share")
    for name in SPLITS:
        table.add_row(name, str(content[f"{name}_samples"]), f"{content[f'{name}_samples'] / len(samples):.1%}")
    Console().print(table)
    typer.echo(f"manifest: {path}")


@app.command()
def proteomics_split(
    platform_a: Annotated[Path, typer.Argument(metavar="PLATFORM_A", help="Samples by proteins; .csv, .tsv or .txt.")],
    platform_b: Annotated[Path, typer.Argument(metavar="PLATFORM_B", help="The other platform.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for STEM_train and STEM_test of both files.")],
    test_size: Annotated[float, typer.Option(help="Share of the samples, or donors, for the test.")] = 0.2,
    seed: Annotated[int, typer.Option(help="The same seed draws the same samples.")] = 42,
    id_column: Annotated[str | None, typer.Option(help="Column of the ids; by default the first of each file.")] = None,
    unit_column: Annotated[str | None, typer.Option(help="Column of the donor, whose samples stay together.")] = None,
) -> None:
    """Divide samples that both platforms have into train and test; cells stay as they were written.

    Exit code 2 when that cannot be done.
    """
    with one_line_errors():
        records = split_files(
            platform_a, platform_b, out, test_size=test_size, seed=seed, id_column=id_column, unit_column=unit_column
        )
    table = Table("file", "samples", title=str(out))
    for record in records:
        table.add_row(record["file"], str(record["samples"]))
    Console().print(table)


def make(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    seed: Annotated[int, typer.Option(help="The same seed makes the same data.")] = 0,
) -> None:
    """Make a data set, show its files, and say what to run next; exit code 2 when that cannot be done."""
    with one_line_errors():
        maker = importlib.import_module(f"datasets.synthetic.{context.command.name}")
        maker.make(directory, seed)
    Console().print(_files(directory))
    typer.echo(f"next: {maker.NEXT.format(directory=directory)}")


def _files(directory: Path) -> Table:
    """Sum up the files folder by folder."""
    table = Table("folder", "files", "size", title=str(directory))
    folders = sorted({path.parent for path in directory.rglob("*") if path.is_file()})
    for folder in folders:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        names = ", ".join(path.name for path in files[:4]) + (f", ... {len(files)} in all" if len(files) > 4 else "")
        size = sum(path.stat().st_size for path in files)
        table.add_row(folder.relative_to(directory).as_posix(), names, f"{size / 1024:,.0f} KiB")
    return table


for task in MAKERS:
    app.command(task, help=f"Make a synthetic data set for the task {task}.")(make)


if __name__ == "__main__":
    app(prog_name="python -m datasets")
