"""What the configuration of a joint VAE accepts, coerces, ignores with a warning, and refuses in one line."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from models.joint_vae import CONFIGS, TYPES, build
from tests.joint_vae_cases import CASES, quietly, recorded
from tests.refusals import refused

SHIPPED: Mapping[str, Any] = {
    "model": {
        "latent_dim": 128,
        "encoder_layers": [1024],
        "decoder_layers": [512],
        "activation": "leaky_relu",
        "dropout_rate": 0.15,
        "batch_norm": True,
        "use_residual_blocks": True,
    },
    "loss_weights": {
        "reconstruction": 0.9,
        "kl_divergence": "1.4e-4",
        "latent_alignment": 1.9,
        "cross_reconstruction": 1.4,
        "alignment_type": "mmd",
    },
    "training": {
        "max_epochs": 200,
        "learning_rate": 4e-4,
        "gradient_clip_val": 0.65,
        "data_augmentation": {"enabled": True, "gaussian_noise_std": 0.4},
    },
}
COUNTS = [
    ("joint_vae", {}, 15_450_915),
    ("JointMM", {}, 15_450_915),
    ("JointVAEVampPrior", {}, 10_294_051),
    ("JointVAEVampPrior", {"use_vampprior": True}, 12_743_551),
    ("JointIWAE", {}, 10_294_051),
    ("joint_vae_plus", {}, 18_079_539),
    ("JointVQ", {}, 1_325_347),
    ("res_unet", {}, 19_810_979),
    ("generative_vae", {"decoder_type": "ddpm"}, 5_833_507),
    ("generative_vae", {"decoder_type": "made"}, 5_717_795),
]


@pytest.mark.parametrize(("model_type", "options", "count"), COUNTS)
def test_every_type_takes_the_shipped_config_and_has_the_parameters_of_the_reference(
    model_type: str, options: dict[str, Any], count: int
) -> None:
    model = {**SHIPPED["model"], **options, "model_type": model_type}
    with torch.device("meta"):
        network = quietly(model_type, {**SHIPPED, "model": model}, (2168, 2731))
    assert sum(weight.numel() for weight in network.parameters()) == count


WEIGHTS = ("reconstruction", "kl_divergence", "latent_alignment", "cross_reconstruction")
REFUSALS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("joint_vaee", {}, ("model.model_type = 'joint_vaee'", "did you mean joint_vae?")),
    ("joint_vae", {"modle": {}}, ("modle: unknown key; did you mean model?",)),
    ("joint_vae", {"model": {"latent_dimm": 3}}, ("model.latent_dimm: unknown key; did you mean latent_dim?",)),
    ("joint_vae", {"model": {"use_flows": True}}, ("model.use_flows: unknown key; choose one of: activation",)),
    ("joint_vae", {"model": {"activation": "relo"}}, ("model.activation = 'relo': unknown; did you mean relu?",)),
    ("JointVQ", {"model": {"activation": "sine"}}, ("model.activation = 'sine': unknown; choose one of: relu",)),
    ("joint_vae", {"model": {"latent_dim": "many"}}, ("model.latent_dim = 'many'", "valid integer")),
    ("joint_vae", {"model": {"encoder_layers": [3, 0]}}, ("model.encoder_layers.1 = 0", "greater than 0")),
    ("joint_vae", {"model": 3}, ("model = 3", "valid dictionary")),
    ("joint_vae", {"loss_weights": {"alignment_type": "mmd_med"}}, ("alignment_type = 'mmd_med'", "mmd_median?")),
    ("JointMM", {"loss_weights": {"kl_divergence": "tiny"}}, ("loss_weights.kl_divergence = 'tiny'", "number")),
    ("JointIWAE", {"loss_weights": {"kl_divergence": "nan"}}, ("loss_weights.kl_divergence = 'nan'", "finite")),
    ("joint_vae", {"training": {"max_epoch": 1}}, ("training.max_epoch: unknown key; did you mean max_epochs?",)),
    (
        "joint_vae",
        {"training": {"data_augmentation": {"gausian_noise_std": 1}}},
        ("training.data_augmentation.gausian_noise_std: unknown key; did you mean gaussian_noise_std?",),
    ),
    ("generative_vae", {"model": {"decoder_type": "gann"}}, ("model.decoder_type = 'gann'", "did you mean gan?")),
    (
        "generative_vae",
        {"model": {"decoder_type": "gan", "decoder": {"hidden_layer": [3]}}},
        ("model.decoder.hidden_layer: unknown key; did you mean hidden_layers?",),
    ),
    ("generative_vae", {"model": {"decoder": 4}}, ("model.decoder = 4",)),
    ("generative_vae", {"model": {"decoder": {"n_timesteps": "x"}}}, ("model.decoder.n_timesteps = 'x'", "integer")),
    (
        "generative_vae",
        {"model": {"decoder_type": "made", "decoder": {"cross_loss": "both"}}},
        ("model.decoder.cross_loss = 'both': unknown; choose one of: sampled, teacher_forced",),
    ),
    (
        "joint_vae",
        {"training": {"data_augmentation": {"gaussian_noise_std": 1}}},
        ("gaussian_noise_std has no effect",),
    ),
    ("joint_vae", {"model": {"latent_dim": True}}, ("model.latent_dim = True: takes no true or false",)),
    ("joint_vae", {"model": {"encoder_layers": [True]}}, ("model.encoder_layers = [True]: takes no true or false",)),
    (
        "joint_vae",
        {"loss_weights": dict.fromkeys(WEIGHTS, 0)},
        ("loss_weights.* = 0: without any weight nothing trains; raise one",),
    ),
    ("JointMM", {"loss_weights": {"mmvae_coherence": 1}}, ("mmvae_coherence has no effect here; set model.use_mmvae",)),
    (
        "JointMM",
        {"model": {"objective": "moe"}, "loss_weights": {"cross_reconstruction": 7}},
        ("loss_weights.cross_reconstruction has no effect here; set model.objective: joint",),
    ),
    ("JointVAEVampPrior", {"model": {"num_pseudoinputs": 7}}, ("model.num_pseudoinputs has no effect",)),
    ("JointVAEVampPrior", {"model": {"train_pseudoinputs": True}}, ("model.train_pseudoinputs has no effect",)),
    ("JointIWAE", {"model": {"k_samples": 1, "bound_per_feature": True}}, ("bound_per_feature has no effect",)),
    (
        "joint_vae_plus",
        {"model": {"use_flows": False, "num_flows": 3}},
        ("num_flows has no effect here; set use_flows",),
    ),
    ("joint_vae_plus", {"model": {"kl_schedule": "constant", "min_beta": 0.5}}, ("model.min_beta has no effect",)),
    ("joint_vae_plus", {"model": {"kl_schedule": "linear", "kl_anneal_ratio": 1}}, ("kl_anneal_ratio has no effect",)),
    ("joint_vae_plus", {"model": {"tc_anneal_length": 5}}, ("tc_anneal_length has no effect",)),
    (
        "joint_vae_plus",
        {"model": {"max_tc_weight": 1}, "loss_weights": {"total_correlation": 2}},
        ("loss_weights.total_correlation has no effect here; leave out model.max_tc_weight",),
    ),
    ("JointVQ", {"model": {"ema_decay": 0.5}}, ("model.ema_decay has no effect here; set codebook_update: ema",)),
    ("res_unet", {"model": {"attention_heads": 3}}, ("model.attention_heads has no effect here; set use_attention",)),
    ("generative_vae", {"loss_weights": {"adversarial": 3}}, ("loss_weights.adversarial has no effect",)),
    ("generative_vae", {"model": {"decoder": {"kind": "gan"}}}, ("decoder.kind has no effect beside decoder_type",)),
    ("JointVQ", {"model": {"num_codebooks": 3}}, ("num_codebooks 3 does not divide latent_dim 128",)),
    ("res_unet", {"model": {"encoder_layers": []}}, ("model.encoder_layers = []", "at least 1")),
    ("res_unet", {"model": {"use_attention": True}}, ("model.attention_heads = 8", "attention_embed_dim")),
]


@pytest.mark.parametrize(("model_type", "config", "parts"), REFUSALS)
def test_what_does_not_suit_is_refused_in_one_line(
    model_type: str, config: dict[str, Any], parts: tuple[str, ...]
) -> None:
    refused(lambda: build(model_type, 11, 9, config), *parts)


def test_numbers_may_be_text() -> None:
    options = build(
        "joint_vae", 11, 9, {"model": {"latent_dim": "3"}, "loss_weights": {"kl_divergence": "1e-8"}}
    ).config
    assert options.model.model_dump()["latent_dim"] == 3
    assert options.loss_weights.model_dump()["kl_divergence"] == 1e-8


@pytest.mark.parametrize(
    ("model_type", "model", "said"),
    [
        ("JointVQ", {"encoder_layers": [8], "decoder_layers": [8]}, "encoder_layers, decoder_layers: no effect"),
        ("res_unet", {"decoder_layers": [8]}, "decoder_layers: no effect"),
        ("JointIWAE", {"use_residual_blocks": True}, "use_residual_blocks: no effect"),
    ],
)
def test_options_of_other_types_are_named_in_a_warning(model_type: str, model: dict[str, Any], said: str) -> None:
    with pytest.warns(UserWarning, match=said):
        build(model_type, 11, 9, {"model": model})


def test_weights_that_a_bound_replaces_are_named_in_a_warning_once() -> None:
    with pytest.warns(UserWarning, match="loss_weights.kl_divergence: no effect with model.k_samples above 1"):
        options = build("JointIWAE", 11, 9, {"loss_weights": {"kl_divergence": 3}}).config
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(options).model_validate(options.model_dump()) == options


def test_keys_of_the_reference_that_are_read_elsewhere_say_where() -> None:
    said = "learning_rate, gradient_clip_val: not read here; set federation.rounds, train.lr, train.clip_grad_norm"
    with pytest.warns(UserWarning, match=f"^max_epochs, {said}$"):
        build("joint_vae", 11, 9, SHIPPED)


def test_what_has_an_effect_is_taken_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        augmented = {"data_augmentation": SHIPPED["training"]["data_augmentation"]}
        build("joint_vae", 11, 9, {**SHIPPED, "training": augmented})


@pytest.mark.parametrize("name", CASES)
def test_options_survive_json(name: str) -> None:
    case = recorded(name)
    options = quietly(case["model_type"], case["config"]).config
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(options).model_validate_json(options.model_dump_json()) == options
    assert build(case["model_type"], 11, 9, options).config == options


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation)


@pytest.mark.parametrize("model_type", list(TYPES))
def test_every_option_is_documented_and_frozen(model_type: str) -> None:
    for section in sections(CONFIGS[model_type]):
        assert section.model_config["frozen"] and section.__doc__
        for name, field in section.model_fields.items():
            block = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
            assert block or field.description, f"{section.__name__}.{name}"


def test_no_two_files_share_six_lines() -> None:
    folder = Path(__file__).parent.parent / "models" / "joint_vae"
    seen: dict[tuple[str, ...], str] = {}
    for path in sorted(folder.glob("*.py")):
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        for start in range(len(lines) - 5):
            run = tuple(lines[start : start + 6])
            assert seen.setdefault(run, path.name) == path.name, run
