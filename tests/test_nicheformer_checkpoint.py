"""NicheFormer weight files: what loads, what is refused, and what the one-line refusals say."""

import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from core.errors import UserError
from models.nicheformer import NicheFormer
from models.nicheformer_checkpoint import convert, read
from models.nicheformer_classifier import NicheFormerClassifier
from models.nicheformer_shape import HyperParameters, used_layout

REPOSITORY = Path(__file__).parent.parent
FIXTURES = Path(__file__).parent / "fixtures" / "nicheformer"
PLAIN, RAW = FIXTURES / "checkpoint.ckpt", FIXTURES / "checkpoint_lightning_raw.ckpt"
FINETUNED = FIXTURES / "finetuned_checkpoint.ckpt"
TINY = {"dim_model": 32, "nheads": 4, "dim_feedforward": 64, "nlayers": 3, "n_tokens": 90, "context_length": 32}


@pytest.fixture
def content() -> dict[str, Any]:
    """The plain checkpoint's content, free to be changed and saved again."""
    return torch.load(PLAIN, weights_only=True)


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def same_weights(one: NicheFormer, other: NicheFormer) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def checkpoint_layout(shape: HyperParameters) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a published file: what is used, a template of a layer, and three heads."""
    used = used_layout(shape)
    first = "encoder.layers.0."
    template = {name.replace(first, "encoder_layer."): one for name, one in used.items() if name.startswith(first)}
    rows = {"classifier_head": shape.n_tokens, "pooler_head": shape.dim_model, "cls_head": 164}
    weights: dict[str, tuple[int, ...]] = {f"{name}.weight": (count, shape.dim_model) for name, count in rows.items()}
    return {**template, **used, **weights, **{f"{name}.bias": (count,) for name, count in rows.items()}}


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


class TestLayout:
    def test_tiny_layout_is_the_recorded_one(self) -> None:
        recorded = {
            key: tuple(shape) for key, shape, _ in json.loads((FIXTURES / "state_dict_shapes.json").read_text())
        }
        assert checkpoint_layout(HyperParameters(**TINY)) == recorded

    def test_published_layout_has_164_tensors_and_the_published_total(self) -> None:
        layout = checkpoint_layout(HyperParameters())
        assert len(layout) == 164
        assert sum(map(math.prod, layout.values())) == 49_302_040

    @pytest.mark.parametrize("learnable_pe", [True, False])
    def test_used_part_is_what_the_network_has(self, learnable_pe: bool) -> None:
        shape = HyperParameters(**TINY, learnable_pe=learnable_pe)
        network = NicheFormer(shape)
        assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == used_layout(shape)


class TestAccepted:
    def test_plain_file(self) -> None:
        checkpoint = read(PLAIN)
        assert (checkpoint.kind, checkpoint.loaded, checkpoint.ignored) == ("pre-trained", 38, 18)
        assert checkpoint.head == {}
        assert checkpoint.assumed == ()
        assert HyperParameters.from_checkpoint(checkpoint.hyper_parameters) == HyperParameters(**TINY)

    def test_untouched_lightning_file_with_numpy_scalars_has_the_same_weights(self) -> None:
        with pytest.raises(pickle.UnpicklingError, match=r"numpy\.core\.multiarray\.scalar"):
            torch.load(RAW, weights_only=True)
        assert same_weights(NicheFormer.from_checkpoint(RAW), NicheFormer.from_checkpoint(PLAIN))

    def test_numpy_2_spelling_of_the_scalar(self, tmp_path: Path, content: dict[str, Any]) -> None:
        content["lr_schedulers"] = [{"_last_lr": [np.float64(1e-5)]}]
        path = saved(content, tmp_path / "numpy2.ckpt")
        assert same_weights(NicheFormer.from_checkpoint(path), NicheFormer.from_checkpoint(PLAIN))

    def test_unknown_and_missing_hyper_parameters(self, tmp_path: Path, content: dict[str, Any]) -> None:
        del content["hyper_parameters"]["modality"]
        content["hyper_parameters"] |= {"specie": None, "colour": "blue"}
        checkpoint = read(saved(content, tmp_path / "a.ckpt"))
        assert checkpoint.assumed == ("specie", "modality")
        assert checkpoint.hyper_parameters["modality"] is True
        assert checkpoint.hyper_parameters["specie"] is True

    def test_half_precision_is_widened(self, tmp_path: Path, content: dict[str, Any]) -> None:
        content["state_dict"] = {name: value.half() for name, value in content["state_dict"].items()}
        network = NicheFormer.from_checkpoint(saved(content, tmp_path / "a.ckpt"))
        assert {value.dtype for value in network.state_dict().values()} == {torch.float32}

    @pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
    def test_hugging_face_release(self, name: str, tmp_path: Path, content: dict[str, Any]) -> None:
        heads = ("classifier_head.",)
        tensors = {
            (key if key.startswith(heads) else f"nicheformer.{key}"): value
            for key, value in content["state_dict"].items()
        }
        tensors["nicheformer.pos"] = torch.arange(32)
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file(tensors, path, {"format": "pt"})
        else:
            torch.save(tensors, path)
        checkpoint = read(path, nheads=4)
        assert (checkpoint.kind, checkpoint.loaded, checkpoint.ignored) == ("Hugging Face", 38, 19)
        assert same_weights(NicheFormer.from_checkpoint(path, nheads=4), NicheFormer.from_checkpoint(PLAIN))
        assert read(path).hyper_parameters["nheads"] == 16
        assert "nheads" in read(path).assumed

    def test_fine_tuned_file_gives_the_recorded_logits(self) -> None:
        checkpoint = read(FINETUNED, nheads=4)
        classes = len(checkpoint.head["linear_head.weight"])
        backbone = NicheFormer.restored(checkpoint)
        network = NicheFormerClassifier(backbone, classes, extract_layers=(0, 2), extractor=True).eval()
        assert not network.load_state_dict(checkpoint.head, strict=False).unexpected_keys
        with np.load(FIXTURES / "model_outputs.npz") as model, np.load(FIXTURES / "finetune.npz") as finetune:
            logits = network(torch.from_numpy(model["assembled_input"])).detach().numpy()
            np.testing.assert_allclose(logits, finetune["two_layers_mean_extractor.logits"], rtol=0, atol=1e-5)
        assert same_weights(NicheFormer.from_checkpoint(FINETUNED, nheads=4), NicheFormer.from_checkpoint(PLAIN))

    def test_loading_draws_nothing_from_the_global_generator(self) -> None:
        before = torch.get_rng_state()
        NicheFormer.from_checkpoint(FINETUNED, nheads=4)
        assert torch.equal(torch.get_rng_state(), before)

    def test_fixed_positions_need_no_table(self, tmp_path: Path, content: dict[str, Any]) -> None:
        content["hyper_parameters"]["learnable_pe"] = False
        checkpoint_path = saved(content, tmp_path / "a.ckpt")
        assert read(checkpoint_path).loaded == 37
        ids = torch.full((1, 32), 40)
        assert NicheFormer.from_checkpoint(checkpoint_path)(ids).isfinite().all()


class TestConvert:
    def test_pre_trained_file(self, tmp_path: Path) -> None:
        target = tmp_path / "new" / "model.safetensors"
        convert(RAW, target)
        checkpoint = read(target)
        assert (checkpoint.kind, checkpoint.loaded, checkpoint.ignored) == ("pre-trained", 38, 0)
        assert checkpoint.hyper_parameters == read(RAW).hyper_parameters
        assert same_weights(NicheFormer.from_checkpoint(target), NicheFormer.from_checkpoint(PLAIN))

    def test_fine_tuned_file_keeps_head_and_number_of_heads(self, tmp_path: Path) -> None:
        target = tmp_path / "model.safetensors"
        convert(FINETUNED, target, nheads=4)
        one, other = read(target), read(FINETUNED, nheads=4)
        assert one.hyper_parameters == other.hyper_parameters
        assert one.head.keys() == other.head.keys() > {"linear_head.weight"}
        assert all(torch.equal(tensor, other.head[name]) for name, tensor in one.head.items())
        assert same_weights(NicheFormer.restored(one), NicheFormer.restored(other))

    def test_other_endings_are_refused_and_nothing_is_written(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"must end in \.safetensors"):
            convert(PLAIN, tmp_path / "model.pt")
        assert list(tmp_path.iterdir()) == []


class Runs:
    """An object whose pickle asks for a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


class TestRefused:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_pickle_that_would_run_code(self, zipped: bool, tmp_path: Path, content: dict[str, Any]) -> None:
        mark = tmp_path / "has_run"
        content["callbacks"] = Runs(f"touch {mark}")
        path = tmp_path / "evil.ckpt"
        if zipped:
            torch.save(content, path)
        else:
            path.write_bytes(pickle.dumps(content["callbacks"], protocol=2))
        assert f"{os.system.__module__}.system" in refusal(path)
        assert not mark.exists()

    def test_a_class_that_is_not_plain_data(self, tmp_path: Path, content: dict[str, Any]) -> None:
        content["callbacks"] = Path("somewhere")
        assert "pathlib" in refusal(saved(content, tmp_path / "a.ckpt"))

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
    @pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
    def test_a_file_cut_off(self, share: float, suffix: str, tmp_path: Path) -> None:
        whole = tmp_path / "whole.safetensors"
        convert(PLAIN, whole)
        data = (whole if suffix == ".safetensors" else PLAIN).read_bytes()
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(data[: int(share * len(data))])
        assert "cut off" in refusal(path)

    def test_a_missing_path_a_folder_and_other_files(self, tmp_path: Path) -> None:
        assert "no such file" in refusal(tmp_path / "nowhere.ckpt")
        assert "no such file" in refusal(tmp_path)
        text = tmp_path / "notes.ckpt"
        text.write_text("these are notes")
        assert "not a checkpoint" in refusal(text)
        assert "not a checkpoint" in refusal(FIXTURES / "finetune.npz")
        assert "no embeddings.weight" in refusal(saved({"fc.weight": torch.zeros(2)}, tmp_path / "other.pt"))
        assert "no state_dict of tensors" in refusal(saved({"state_dict": [1, 2]}, tmp_path / "list.pt"))
        assert "holds a list" in refusal(saved([1, 2], tmp_path / "bare_list.pt"))

    def test_a_missing_weight(self, tmp_path: Path, content: dict[str, Any]) -> None:
        del content["state_dict"]["encoder.layers.1.norm2.bias"]
        message = refusal(saved(content, tmp_path / "a.ckpt"))
        assert "encoder.layers.1.norm2.bias is missing (shape (32,))" in message

    def test_a_weight_of_another_shape(self, tmp_path: Path, content: dict[str, Any]) -> None:
        content["state_dict"]["encoder.layers.2.linear1.weight"] = torch.zeros(65, 32)
        message = refusal(saved(content, tmp_path / "a.ckpt"))
        assert "encoder.layers.2.linear1.weight has shape (65, 32), its hyper-parameters imply (64, 32)" in message

    def test_hyper_parameters_that_do_not_fit_the_weights(self, tmp_path: Path, content: dict[str, Any]) -> None:
        content["hyper_parameters"]["n_tokens"] = 91
        message = refusal(saved(content, tmp_path / "a.ckpt"))
        assert "embeddings.weight has shape (95, 32), its hyper-parameters imply (96, 32)" in message

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [("nheads", 5, "nheads 5 does not divide dim_model 32"), ("dropout", 1.5, "dropout Input should be less than")],
    )
    def test_hyper_parameters_that_describe_no_network(
        self, name: str, value: float, message: str, tmp_path: Path, content: dict[str, Any]
    ) -> None:
        content["hyper_parameters"][name] = value
        assert message in refusal(saved(content, tmp_path / "a.ckpt"))

    def test_weights_that_are_not_finite(self, tmp_path: Path, content: dict[str, Any]) -> None:
        content["state_dict"]["embeddings.weight"][3, 4] = math.nan
        assert "embeddings.weight holds NaN" in refusal(saved(content, tmp_path / "a.ckpt"))

    def test_heads_that_contradict_the_file(self) -> None:
        with pytest.raises(UserError, match="nheads 4 is stated in the file, 8 was given"):
            read(PLAIN, nheads=8)


class TestCommand:
    @staticmethod
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "models", *map(str, arguments)]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    def test_convert_then_show(self, tmp_path: Path) -> None:
        target = tmp_path / "model.safetensors"
        done = self.run("convert", RAW, target)
        assert (done.returncode, done.stdout) == (0, f"{target}: 38 tensors written, 18 unused ones left out\n")
        shown = self.run("show", target)
        assert "38 loaded, 0 ignored" in shown.stdout
        assert "parameters: 29,696" in shown.stdout
        assert "nheads: 4\n" in shown.stdout

    def test_a_mistake_is_one_line_and_exit_code_2(self, tmp_path: Path) -> None:
        failed = self.run("show", tmp_path / "nowhere.ckpt")
        assert failed.returncode == 2
        assert failed.stderr.count("\n") == 1
        assert failed.stderr.startswith(f"error: {tmp_path / 'nowhere.ckpt'}: no such file")
