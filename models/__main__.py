"""`python -m models`: look into a weight file, or rewrite it so that it opens anywhere."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands import one_line_errors
from models.nicheformer_checkpoint import Checkpoint, read
from models.nicheformer_checkpoint import convert as convert_file

app = typer.Typer(
    help="Look into NicheFormer weight files and convert them. Files are never unpickled beyond plain data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Heads = Annotated[int | None, typer.Option(help="Attention heads, for a file that does not state them.", min=1)]


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A Lightning checkpoint, a .safetensors file or saved tensors.")],
    nheads: Heads = None,
) -> None:
    """Say what is in a file: its kind, hyper-parameters, tensors used and ignored, and number of parameters."""
    typer.echo(_description(file, read(file, nheads)))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Any file that `show` accepts.")],
    target: Annotated[Path, typer.Argument(help="File to write; must end in .safetensors.")],
    nheads: Heads = None,
) -> None:
    """Rewrite a file as safetensors: the weights the network uses, with the hyper-parameters as metadata."""
    checkpoint = convert_file(source, target, nheads)
    typer.echo(f"{target}: {checkpoint.loaded} tensors written, {checkpoint.ignored} unused ones left out")


def _description(file: Path, checkpoint: Checkpoint) -> str:
    values = sum(tensor.numel() for part in (checkpoint.state_dict, checkpoint.head) for tensor in part.values())
    lines = [
        f"{file}: {checkpoint.kind} NicheFormer{', with head' if checkpoint.head else ''}",
        f"tensors: {checkpoint.loaded} loaded, {checkpoint.ignored} ignored",
        f"parameters: {values:,}",
    ]
    for name, value in checkpoint.hyper_parameters.items():
        remark = " (assumed: the file does not say)" if name in checkpoint.assumed else ""
        lines.append(f"  {name}: {value}{remark}")
    return "\n".join(lines)


if __name__ == "__main__":
    with one_line_errors():
        app(prog_name="python -m models")
