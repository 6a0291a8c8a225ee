"""`python -m models`: look into a weight file, or rewrite it so that it opens anywhere."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands import one_line_errors
from models import attention_unet_checkpoint, run_weights, tensor_files, vgg3d_checkpoint
from models.nicheformer_checkpoint import Checkpoint, read
from models.nicheformer_checkpoint import convert as convert_file

app = typer.Typer(
    help="Look into weight files, and convert those of NicheFormer. Files are never unpickled beyond plain data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Heads = Annotated[int | None, typer.Option(help="Attention heads, for a file that does not state them.", min=1)]


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="Of a run, or a Lightning checkpoint, .safetensors, saved tensors.")],
    nheads: Heads = None,
) -> None:
    """Say what is in a file of a run, NicheFormer, a 3-D VGG or an attention U-Net: kind, sizes, number of values."""
    content = tensor_files.load(file)
    if run_weights.is_run_weights(content):
        typer.echo(run_weights.describe(file, content))
    elif vgg3d_checkpoint.is_vgg3d(content):
        typer.echo(_features(vgg3d_checkpoint.read(file)))
    elif attention_unet_checkpoint.is_attention_unet(content):
        typer.echo(_attention_unet(attention_unet_checkpoint.read(file)))
    else:
        typer.echo(_description(file, read(file, nheads)))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A file of NicheFormer.")],
    target: Annotated[Path, typer.Argument(help="File to write; must end in .safetensors.")],
    nheads: Heads = None,
) -> None:
    """Rewrite a NicheFormer file as safetensors: the weights it uses, with the hyper-parameters as metadata."""
    checkpoint = convert_file(source, target, nheads)
    typer.echo(f"{target}: {checkpoint.loaded} tensors written, {checkpoint.ignored} unused ones left out")


def _features(checkpoint: vgg3d_checkpoint.Checkpoint) -> str:
    values = sum(tensor.numel() for name, tensor in checkpoint.features.items() if name.endswith((".weight", ".bias")))
    stages = checkpoint.widths
    return "\n".join(
        [
            f"{checkpoint.path}: 3-D VGG",
            f"tensors: {len(checkpoint.features)} of features, {checkpoint.ignored} others",
            f"parameters of features: {values:,}",
            f"  input_fmaps: {checkpoint.channels}",
            f"  fmaps: {', '.join(str(stage[0]) for stage in stages)}",
            f"  n_convolutions: {', '.join(str(len(stage)) for stage in stages)}",
        ]
    )


def _attention_unet(checkpoint: attention_unet_checkpoint.Checkpoint) -> str:
    values = sum(tensor.numel() for name, tensor in checkpoint.state.items() if name.endswith((".weight", ".bias")))
    return "\n".join(
        [
            f"{checkpoint.path}: attention U-Net",
            f"tensors: {len(checkpoint.state)}",
            f"parameters: {values:,}",
            f"  in_channels: {checkpoint.channels}",
            f"  widths: {', '.join(map(str, checkpoint.widths))}",
            f"  norm: {checkpoint.norm}",
        ]
    )


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
