"""Cross-entropy and soft Dice against recorded losses, and what the mask leaves out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from models.segmentation_loss import BceDice
from tests.refusals import refused

RECORDED = np.load(Path(__file__).parent / "fixtures" / "attention_unet" / "losses_metrics.npz")
CASES = RECORDED["cases"].tolist()


def case(name: str) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(RECORDED[f"{name}__pred"]), torch.from_numpy(RECORDED[f"{name}__target"])


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_recorded_losses(name: str, weight: float) -> None:
    probabilities, target = case(name)
    expected = pytest.approx(float(RECORDED[f"{name}__loss_dw{weight}"]), abs=1e-6)
    criterion = BceDice(weight)
    assert float(criterion.from_probabilities(probabilities, target)[0]) == expected
    if name != "perfect_saturated":
        assert float(criterion.from_logits(probabilities.double().logit().float(), target)[0]) == expected


def test_parts_by_hand() -> None:
    probabilities = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).reshape(2, 1, 1, 2)
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).reshape(2, 1, 1, 2)
    total, parts = BceDice(0.25).from_probabilities(probabilities, target)
    assert float(parts["bce"]) == pytest.approx(np.log(2) / 2)
    assert float(parts["dice"]) == pytest.approx(1 - (2 * 0.5 / (1 + 1) + 1) / 2, abs=1e-6)
    assert float(total) == pytest.approx(0.75 * np.log(2) / 2 + 0.25 * 0.25, abs=1e-6)


def test_certain_mistakes_cost_a_hundred_and_have_finite_gradients() -> None:
    probabilities = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2).requires_grad_()
    target = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    total, parts = BceDice().from_probabilities(probabilities, target)
    assert float(parts["bce"].detach()) == pytest.approx(100)
    total.backward()
    assert bool(probabilities.grad.isfinite().all())


def test_probabilities_beyond_their_range_by_rounding_count_as_its_ends() -> None:
    beyond = torch.tensor([1 + 1e-6, -1e-6]).reshape(1, 1, 1, 2)
    total, _ = BceDice().from_probabilities(beyond, torch.tensor([1, 0]).reshape(1, 1, 1, 2))
    assert float(total) == pytest.approx(0, abs=1e-6)


def test_gradients_of_logits_are_those_of_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 5, 6, generator=generator, dtype=torch.float64)
    target = (torch.rand(2, 1, 5, 6, generator=generator) > 0.6).double()
    direct, through = (logits.float().requires_grad_(), logits.clone().requires_grad_())
    BceDice().from_logits(direct, target)[0].backward()
    BceDice().from_probabilities(through.sigmoid(), target)[0].backward()
    torch.testing.assert_close(direct.grad, through.grad.float(), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.tensor([90.0, -90.0, 0.5, 3.0], dtype=dtype).repeat(1, 1, 512, 128)
    target = torch.tensor([0, 0, 1, 1]).repeat(1, 1, 512, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, parts = BceDice().from_logits(logits, target)
    assert total.dtype == torch.float32
    expected = (90 + 0 + np.log1p(np.exp(-0.5)) + np.log1p(np.exp(-3))) / 4
    assert float(parts["bce"]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float32])
def test_pixels_outside_the_mask_count_nowhere(kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    logits, target = torch.randn(2, 1, 6, 8, generator=generator), torch.randint(2, (2, 1, 6, 8), generator=generator)
    valid = torch.zeros(2, 1, 6, 8)
    valid[:, :, :4, :5] = 1
    criterion = BceDice(0.3)
    for loss, values in ((criterion.from_logits, logits), (criterion.from_probabilities, logits.sigmoid())):
        values = values.clone().requires_grad_()
        masked, parts = loss(values, target, valid.to(kind))
        inside, expected = loss(values.detach()[:, :, :4, :5], target[:, :, :4, :5])
        assert float(masked.detach()) == pytest.approx(float(inside), abs=1e-6)
        assert float(parts["bce"].detach()) == pytest.approx(float(expected["bce"]), abs=1e-6)
        masked.backward()
        assert bool(((values.grad != 0) == (valid > 0)).all())


def test_the_loss_of_a_set_does_not_depend_on_its_batches() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, target = torch.randn(3, 1, 6, 8, generator=generator), torch.randint(2, (3, 1, 6, 8), generator=generator)
    valid = torch.ones(3, 1, 6, 8)
    valid[0, :, 2:], valid[1, :, :, 1:], valid[2] = 0, 0, 0
    whole, _ = BceDice().from_logits(logits, target, valid)
    samples = zip(logits.split(1), target.split(1), valid.split(1), strict=True)
    single = [float(BceDice().from_logits(*sample)[0]) for sample in samples]
    assert float(whole) == pytest.approx(np.mean(single), abs=1e-6)
    assert single[2] == 0


def test_cross_entropy_is_that_of_pytorch() -> None:
    probabilities, target = case("mixed")
    _, parts = BceDice().from_probabilities(probabilities, target)
    assert float(parts["bce"]) == pytest.approx(float(binary_cross_entropy(probabilities, target)), abs=1e-6)


def test_what_is_refused() -> None:
    for weight in (-0.1, 1.1, float("nan")):
        refused(lambda weight=weight: BceDice(weight), f"dice_weight: {weight}")
    image = torch.zeros(1, 1, 4, 4)
    for others in ((image[:, :, :3], None), (image, image[:, :, :3])):
        with pytest.raises(ValueError, match="shapes"):
            BceDice().from_logits(image, *others)
    with pytest.raises(ValueError, match="shapes"):
        BceDice().from_probabilities(image[0], image[0])
