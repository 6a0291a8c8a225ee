"""NicheFormer and its classifier against recorded outputs of the published implementation (tests/fixtures)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from core.errors import UserError
from core.randomness import generator, seeded_torch
from models.nicheformer import NicheFormer
from models.nicheformer_classifier import NicheFormerClassifier
from models.nicheformer_encoder import attention_keys
from models.nicheformer_shape import HyperParameters
from training.parameters import count_parameters

FIXTURES = Path(__file__).parent / "fixtures" / "nicheformer"
TINY = HyperParameters(dim_model=16, nheads=2, dim_feedforward=32, nlayers=4, n_tokens=60, context_length=20)
HEADS = {
    "last_mean": {},
    "two_layers_mean_extractor": {"extract_layers": [0, 2], "extractor": True},
    "two_layers_sum_with_context": {"extract_layers": [1, 2], "combine": "sum", "with_context": True},
}
MODES = ("head_only", "partial", "full")


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "model_outputs.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def finetune() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "finetune.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def tokens(recorded: dict[str, np.ndarray]) -> Tensor:
    return torch.from_numpy(recorded["assembled_input"])


@pytest.fixture
def backbone() -> NicheFormer:
    return NicheFormer.from_checkpoint(FIXTURES / "checkpoint.ckpt").eval()


def tiny_backbone(**changes: object) -> NicheFormer:
    with seeded_torch(1, "test backbone"):
        return NicheFormer(HyperParameters(**{**TINY.model_dump(), **changes}))


def tiny_tokens(cells: int, length: int = 20) -> Tensor:
    random = generator(1, "test tokens")
    ids = torch.from_numpy(random.integers(30, 60, (cells, length)))
    ends = torch.from_numpy(random.integers(3, length + 1, cells))
    ids[torch.arange(length) >= ends[:, None]] = 0
    ids[:, :3] = torch.tensor([6, 9, 4])
    return ids


def classifier(backbone: NicheFormer, finetune: dict[str, np.ndarray], head: str) -> NicheFormerClassifier:
    with seeded_torch(1, "test head"):
        network = NicheFormerClassifier(backbone, int(finetune["n_classes"]), **HEADS[head])
    weights = {name: torch.from_numpy(finetune[f"{head}.{name}"]) for name in head_names(network)}
    network.load_state_dict(weights, strict=False)
    return network.eval()


def head_names(network: NicheFormerClassifier) -> list[str]:
    return [name for name in network.state_dict() if not name.startswith("backbone.")]


def close(found: Tensor, expected: np.ndarray, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=atol)


class TestEncoder:
    def test_hidden_states_are_the_recorded_ones(
        self, backbone: NicheFormer, tokens: Tensor, recorded: dict[str, np.ndarray]
    ) -> None:
        close(torch.stack(backbone(tokens, all_layers=True)), recorded["hidden_states"])
        close(backbone(tokens), recorded["fast_path_last_hidden"])
        assert np.array_equal(backbone.padding(tokens).numpy(), recorded["padding_mask"])
        assert torch.equal(backbone(torch.from_numpy(recorded["model_input"])), backbone(tokens))

    def test_cell_vectors_are_the_recorded_ones(
        self, backbone: NicheFormer, tokens: Tensor, recorded: dict[str, np.ndarray]
    ) -> None:
        for layer in range(3):
            close(backbone.embed(tokens, layer), recorded[f"pooled_layer_{layer}"])
        close(backbone.embed(tokens), recorded["pooled_last"])
        close(backbone.embed(tokens, with_context=True), recorded["pooled_last_with_context"])
        close(backbone.embed(tokens, masked=True), recorded["masked_mean_last"])

    def test_masked_gene_logits_follow_from_the_last_hidden_states(
        self, backbone: NicheFormer, tokens: Tensor, recorded: dict[str, np.ndarray]
    ) -> None:
        head = torch.load(FIXTURES / "checkpoint.ckpt", weights_only=True)["state_dict"]
        logits = F.linear(backbone(tokens), head["classifier_head.weight"], head["classifier_head.bias"])
        close(logits, recorded["mlm_logits"], atol=2e-5)

    def test_cells_alone_give_what_they_give_in_a_batch(
        self, backbone: NicheFormer, tokens: Tensor, recorded: dict[str, np.ndarray]
    ) -> None:
        alone = [tokens[cell : cell + 1] for cell in range(len(tokens))]
        close(torch.cat([backbone(cell) for cell in alone]), recorded["hidden_states"][-1])
        close(torch.cat([backbone.embed(cell, masked=True) for cell in alone]), recorded["masked_mean_last"])

    def test_lower_and_upper_halves_make_the_whole(self, backbone: NicheFormer, tokens: Tensor) -> None:
        hidden = backbone.lower(tokens, 1)
        upper = list(backbone.upper(hidden, backbone.padding(tokens), 1))
        assert len(upper) == 2
        assert torch.equal(upper[-1], backbone(tokens))

    def test_gradients_are_those_of_untrimmed_masked_attention(self, backbone: NicheFormer, tokens: Tensor) -> None:
        cells = tokens[7:9]  # eight and four tokens, so trimmed and masked
        backbone(cells).square().sum().backward()
        found = backbone.encoder.layers[0].self_attn.in_proj_weight.grad.clone()
        backbone.zero_grad()
        layer = torch.nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, layer_norm_eps=1e-12)
        stack = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        stack.load_state_dict(backbone.encoder.state_dict())
        stack(backbone.lower(cells, 0), src_key_padding_mask=backbone.padding(cells)).square().sum().backward()
        close(found, stack.layers[0].self_attn.in_proj_weight.grad.numpy(), atol=1e-4)

    def test_a_cell_without_genes_has_a_masked_mean_of_zero(self) -> None:
        empty = torch.zeros(1, 20, dtype=torch.int32)
        empty[0, :3] = torch.tensor([6, 9, 4])
        network = tiny_backbone().eval()
        assert torch.equal(network.embed(empty, masked=True), torch.zeros(1, 16))
        assert network.embed(empty).isfinite().all()
        assert network(torch.zeros(1, 20, dtype=torch.int64)).isfinite().all()

    def test_fewer_context_ids_keep_every_gene_in_the_masked_mean_and_drop_three_in_the_plain_one(self) -> None:
        network = tiny_backbone(assay=False).eval()
        ids = torch.zeros(1, 20, dtype=torch.int64)
        ids[0, :4] = torch.tensor([6, 4, 40, 50])
        hidden = network(ids)
        close(network.embed(ids, masked=True), hidden[:, 2:4].mean(dim=1).detach().numpy(), atol=1e-6)
        close(network.embed(ids), hidden[:, 3:].mean(dim=1).detach().numpy(), atol=1e-6)

    def test_fixed_positions_are_sines_and_cosines_and_are_not_stored(self) -> None:
        network = tiny_backbone(learnable_pe=False, dropout=0.5)
        assert not [name for name in network.state_dict() if "position" in name]
        ids = tiny_tokens(1)
        positions = (network.train().lower(ids, 0) - network.embeddings(ids.masked_fill(ids == 0, 1)))[0]
        assert positions[5, 0].item() == pytest.approx(np.sin(5), abs=1e-6)
        assert positions[5, 3].item() == pytest.approx(np.cos(5 * 10000 ** (-2 / 16)), abs=1e-6)

    def test_keys_end_behind_the_longest_sequence(self) -> None:
        padding = torch.tensor([[False, False, True, True], [False, True, True, True]])
        length, keep = attention_keys(padding)
        assert length == 2
        assert keep is not None
        assert keep[:, 0, 0].tolist() == [[True, True], [True, False]]
        assert attention_keys(padding[:1]) == (2, None)

    @pytest.mark.parametrize("shape", [(2, 19), (2, 21), (20,)])
    def test_sequences_of_another_length_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="context_length 20"):
            tiny_backbone()(torch.zeros(shape, dtype=torch.int64))

    def test_unknown_layers_and_contradicting_means_are_refused(self) -> None:
        with pytest.raises(ValueError, match="layer 4 of a model with 4 layers"):
            tiny_backbone().embed(tiny_tokens(1), 4)
        with pytest.raises(ValueError, match="exclude each other"):
            tiny_backbone().embed(tiny_tokens(1), with_context=True, masked=True)

    def test_hyper_parameters_ignore_unknown_names_and_refuse_heads_that_do_not_divide(self) -> None:
        assert HyperParameters.from_checkpoint({"lr": 1.0, "nlayers": 3, "dim_model": None}).model_dump() == {
            **HyperParameters().model_dump(),
            "nlayers": 3,
        }
        with pytest.raises(ValueError, match="nheads 5 does not divide dim_model 16"):
            HyperParameters(dim_model=16, nheads=5)


class TestClassifier:
    @pytest.mark.parametrize("head", HEADS)
    def test_logits_loss_accuracy_and_representation_are_the_recorded_ones(
        self, head: str, backbone: NicheFormer, finetune: dict[str, np.ndarray], tokens: Tensor
    ) -> None:
        network = classifier(backbone, finetune, head)
        labels = torch.from_numpy(finetune["labels"])
        logits = network(tokens)
        close(logits, finetune[f"{head}.logits"])
        assert F.cross_entropy(logits, labels).item() == pytest.approx(float(finetune[f"{head}.loss"]), abs=1e-5)
        accuracy = (logits.argmax(dim=1) == labels).float().mean().item()
        assert accuracy == pytest.approx(float(finetune[f"{head}.accuracy"]))
        network.with_context = False
        close(network.representation(tokens), finetune[f"{head}.representation"])

    @pytest.mark.parametrize("cached", [False, True])
    @pytest.mark.parametrize("mode", MODES)
    def test_training_follows_the_recorded_trajectory(
        self, mode: str, cached: bool, backbone: NicheFormer, finetune: dict[str, np.ndarray], tokens: Tensor
    ) -> None:
        network = classifier(backbone, finetune, "last_mean").train()
        network.set_fine_tune_mode(mode)
        labels = torch.from_numpy(finetune["labels"])
        trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
        optimizer = torch.optim.AdamW(trained.values(), weight_decay=0.001)
        features = network.frozen_features(tokens) if cached else None
        losses = []
        for step, rate in enumerate(finetune[f"train.{mode}.lrs"]):
            optimizer.param_groups[0]["lr"] = float(rate)
            optimizer.zero_grad()
            loss = F.cross_entropy(network(**features) if features else network(tokens), labels)
            loss.backward()
            losses.append(loss.item())
            if step == 0:
                self.compare(finetune, f"train.{mode}.first_grad.", {n: p.grad for n, p in trained.items()}, 1e-5)
                assert {n for n, p in trained.items() if p.grad is not None} == set(
                    finetune[f"train.{mode}.params_with_grad"].tolist()
                )
            optimizer.step()
        np.testing.assert_allclose(losses, finetune[f"train.{mode}.losses"], rtol=0, atol=1e-5)
        self.compare(finetune, f"train.{mode}.final.", dict(network.named_parameters()), 1e-4)

    @staticmethod
    def compare(finetune: dict[str, np.ndarray], start: str, found: dict[str, Tensor], atol: float) -> None:
        names = [name.removeprefix(start) for name in finetune if name.startswith(start)]
        assert names
        for name in names:
            close(found[name], finetune[start + name], atol)

    def test_trainable_counts_leave_out_parts_that_get_no_gradient(
        self, backbone: NicheFormer, finetune: dict[str, np.ndarray]
    ) -> None:
        network = classifier(backbone, finetune, "last_mean")
        layer = 3 * 32 * 32 + 3 * 32 + 32 * 32 + 32 + 64 * 32 + 64 + 32 * 64 + 32 + 4 * 32
        unused = layer + 90 * 32 + 90 + 32 * 32 + 32 + 164 * 32 + 164
        for mode, left_out in (("head_only", 0), ("partial", 0), ("full", unused)):
            network.set_fine_tune_mode(mode)
            counts = count_parameters(network)
            assert counts["trainable"] == int(finetune[f"train.{mode}.n_trainable"]) - left_out
        assert counts["total"] == counts["trainable"]

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("extract_layers", [[3], [0, 3], [0, 1, 2], [2]])
    @pytest.mark.parametrize("mode", ["head_only", "partial"])
    def test_cached_features_give_the_same_bits_while_training(
        self, mode: str, extract_layers: list[int], masked: bool
    ) -> None:
        network = NicheFormerClassifier(
            tiny_backbone(dropout=0.5), 3, extract_layers=extract_layers, masked=masked, extractor=True
        ).train()
        network.set_fine_tune_mode(mode)
        tokens = tiny_tokens(5)
        features = network.frozen_features(tokens)
        assert features is not None
        assert not any(value.requires_grad for value in features.values())
        with seeded_torch(1, "dropout"):
            direct = network(tokens)
        with seeded_torch(1, "dropout"):
            assert torch.equal(network(**features), direct)
        direct.sum().backward()
        trained = {name for name, value in network.named_parameters() if value.requires_grad}
        assert {name for name, value in network.named_parameters() if value.grad is not None} == trained

    @pytest.mark.parametrize("mode", ["head_only", "partial"])
    def test_frozen_features_of_a_cell_do_not_depend_on_its_batch(self, mode: str) -> None:
        network = NicheFormerClassifier(tiny_backbone(), 3, extract_layers=[0, 3])
        network.set_fine_tune_mode(mode)
        tokens = tiny_tokens(9)
        whole, turned = network.frozen_features(tokens), network.frozen_features(tokens.flip(0))
        assert whole is not None
        assert turned is not None
        for name, value in whole.items():
            assert torch.equal(value.flip(0), turned[name])
            for size in (1, 2, 4):
                parts = [network.frozen_features(part)[name] for part in tokens.split(size)]
                assert torch.equal(torch.cat(parts), value)

    def test_larger_encoding_blocks_agree_within_rounding(self) -> None:
        networks = [NicheFormerClassifier(tiny_backbone(), 3, encode_block=block) for block in (1, 4)]
        pooled = []
        for network in networks:
            network.set_fine_tune_mode("head_only")
            pooled.append(network.frozen_features(tiny_tokens(9))["pooled"])
        close(pooled[1], pooled[0].numpy())

    def test_masked_vectors_equal_the_backbones(self) -> None:
        backbone, tokens = tiny_backbone().eval(), tiny_tokens(6)
        network = NicheFormerClassifier(backbone, 3, masked=True).eval()
        for mode in MODES:
            network.set_fine_tune_mode(mode)
            close(network.representation(tokens), backbone.embed(tokens, masked=True).detach().numpy(), atol=1e-6)

    def test_layers_above_the_extracted_ones_never_train(self) -> None:
        network = NicheFormerClassifier(tiny_backbone(), 3, extract_layers=[1])
        assert not any(value.requires_grad for value in network.backbone.encoder.layers[2:].parameters())
        assert all(value.requires_grad for value in network.backbone.encoder.layers[:2].parameters())

    def test_dropout_stays_off_in_the_frozen_part_only(self) -> None:
        network = NicheFormerClassifier(tiny_backbone(dropout=0.5), 3).train()
        layers = network.backbone.encoder.layers
        network.set_fine_tune_mode("partial")
        assert [layer.training for layer in layers] == [False, False, True, True]
        assert not network.backbone.dropout.training
        network.set_fine_tune_mode("full")
        assert all(layer.training for layer in layers)
        assert network.backbone.dropout.training
        assert not any(layer.training for layer in network.eval().backbone.encoder.layers)

    def test_coordinates_are_added_to_the_vector_through_a_linear_map(self) -> None:
        network = NicheFormerClassifier(tiny_backbone(), 3, spatial=True)
        tokens, coordinates = tiny_tokens(2), torch.tensor([[1.0, 2.0], [0.0, 0.0]])
        shift = coordinates @ network.coordinate_head.weight.T + network.coordinate_head.bias
        expected = (network.representation(tokens) + shift) @ network.linear_head.weight.T
        close(network(tokens, coordinates_B2=coordinates), expected.detach().numpy())
        with pytest.raises(ValueError, match="spatial=True"):
            network(tokens)
        with pytest.raises(ValueError, match="spatial=True"):
            NicheFormerClassifier(tiny_backbone(), 3)(tokens, coordinates_B2=coordinates)

    def test_features_of_another_mode_and_double_input_are_refused(self) -> None:
        network, tokens = NicheFormerClassifier(tiny_backbone(), 3), tiny_tokens(2)
        assert network.frozen_features(tokens) is None
        network.set_fine_tune_mode("head_only")
        features = network.frozen_features(tokens)
        with pytest.raises(ValueError, match="either tokens_BL or"):
            network(tokens, **features)
        with pytest.raises(ValueError, match="either tokens_BL or"):
            network()
        network.set_fine_tune_mode("partial")
        with pytest.raises(ValueError, match="mode partial takes the features hidden, padding"):
            network(**features)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"extract_layers": [4]}, r"extract_layers: \[4\]; choose from 0 ... 3"),
            ({"extract_layers": []}, "choose from 0 ... 3"),
            ({"extract_layers": [1, 1]}, "repeats a layer"),
            ({"masked": True, "with_context": True}, "set with_context to false"),
            ({"combine": "concat"}, "combine: 'concat' is unknown"),
            ({"n_classes": 0}, "n_classes: 0"),
            ({"encode_block": 0}, "encode_block: 0"),
        ],
    )
    def test_options_that_cannot_be_met_are_refused(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(UserError, match=message):
            NicheFormerClassifier(tiny_backbone(), **{"n_classes": 3, **options})

    def test_modes_that_cannot_be_met_are_refused(self) -> None:
        network = NicheFormerClassifier(tiny_backbone(), 3, extract_layers=[1])
        with pytest.raises(UserError, match="choose head_only"):
            network.set_fine_tune_mode("partial")
        with pytest.raises(UserError, match="'half' is unknown"):
            network.set_fine_tune_mode("half")
        assert network.mode == "full"
