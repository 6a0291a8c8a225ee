"""Cross-entropy and soft Dice of a binary segmentation, as one loss.

Soft Dice is Milletari et al. 2016 (arXiv:1606.04797) with plain sums in the denominator, as MONAI computes it; it looks
at overlap alone, so rare foreground counts as much as the background around it.
"""

import math

from monai.losses.dice import DiceLoss
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from core.errors import UserError

Parts = dict[str, Tensor]

SMOOTHING = 1e-6
"""Added above and below in Dice, so that an empty prediction of an empty target is perfect."""
LEAST_LOG = -100.0
"""Logs of probabilities are not taken below this, as PyTorch does it."""


class BceDice:
    """(1 - w) cross-entropy + w (1 - Dice), each the mean over samples.

    Every sample counts the same, however many of its pixels are valid, so the loss of a set does not depend on how it
    is cut into batches. Where samples have equally many, cross-entropy is the mean over all pixels. A sample without a
    valid pixel has loss 0.
    """

    def __init__(self, dice_weight: float = 0.5) -> None:
        """Take w.

        Raises:
            UserError: It is not in 0 ... 1.
        """
        if not 0 <= dice_weight <= 1:
            raise UserError(f"dice_weight: {dice_weight} is no share; give a number from 0 (cross-entropy) to 1 (Dice)")
        self.dice_weight = dice_weight
        self._dice = DiceLoss(smooth_nr=SMOOTHING, smooth_dr=SMOOTHING, reduction="none")

    def from_logits(self, logits: Tensor, target: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Parts]:
        """Give the loss, and its parts `bce` and `dice` (1 - Dice), computed in float32.

        Args:
            logits: Shape [B, 1, H, W], of any floating type.
            target: 0 or 1, of any type, same shape.
            valid: Nonzero where a pixel counts, same shape; None where all do.

        Raises:
            ValueError: Shapes differ.
        """
        check_shapes(logits, target, valid)
        logits, target = logits.float(), target.float()
        entropy = binary_cross_entropy_with_logits(logits, target, reduction="none")
        return self._joined(entropy, logits.sigmoid(), target, valid)

    def from_probabilities(
        self, probabilities: Tensor, target: Tensor, valid: Tensor | None = None
    ) -> tuple[Tensor, Parts]:
        """Give the same from probabilities, computed in float64: averages over windows have no logits.

        Probabilities that rounding led slightly out of 0 ... 1 are put back. Otherwise as `from_logits`.
        """
        check_shapes(probabilities, target, valid)
        probabilities, target = probabilities.double().clamp(0, 1), target.double()
        entropy = -(target * _log(probabilities) + (1 - target) * _log(1 - probabilities))
        return self._joined(entropy, probabilities, target, valid)

    def _joined(
        self, entropy: Tensor, probabilities: Tensor, target: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Parts]:
        per_sample = entropy.flatten(1).mean(dim=1)
        if valid is not None:
            outside = valid == 0
            entropy, probabilities, target = (
                values.masked_fill(outside, 0) for values in (entropy, probabilities, target)
            )
            pixels = (~outside).flatten(1).sum(dim=1).clamp(min=1)
            per_sample = entropy.flatten(1).sum(dim=1) / pixels
        parts = {"bce": per_sample.mean(), "dice": self._dice(probabilities, target).mean()}
        return (1 - self.dice_weight) * parts["bce"] + self.dice_weight * parts["dice"], parts


def _log(values: Tensor) -> Tensor:
    """Give logs of at least -100, with gradient 0 where that limit holds."""
    return values.clamp(min=math.exp(LEAST_LOG)).log()


def check_shapes(predicted: Tensor, target: Tensor, valid: Tensor | None) -> None:
    """Check that predictions, targets and the mask of what counts belong to the same images.

    Raises:
        ValueError: The shapes differ, or are not [B, 1, H, W].
    """
    shapes = [tuple(values.shape) for values in (predicted, target, valid) if values is not None]
    if len(shapes[0]) != 4 or shapes[0][1] != 1 or len(set(shapes)) > 1:
        raise ValueError(f"shapes {', '.join(map(str, shapes))}: give equal ones, [samples, 1, height, width]")
