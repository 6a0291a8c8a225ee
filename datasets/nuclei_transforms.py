"""What happens to a crop between disk and network: margin, flips, rotation, intensity. Arrays end in z, y, x."""

from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]

FLIP = ROTATION = GAMMA = CONTRAST = 0.5
NOISE = 0.3
"""Probabilities of the augmentations, as published."""
SPREAD = (0.8, 1.2)
NOISE_DEVIATION = 0.05


def margin_voxels(shape: tuple[int, ...], margin: int) -> int:
    """Give the voxels cut from every face: the margin, at most a quarter of the smallest side."""
    return min(margin, min(shape[-3:]) // 4)


def cut_margin(values: npt.NDArray[Any], margin: int) -> npt.NDArray[Any]:
    """Cut a margin from every face of the last three axes."""
    cut = margin_voxels(values.shape, margin)
    inner = slice(cut, -cut or None)
    return values[..., inner, inner, inner]


def published(values: npt.NDArray[Any], margin: int) -> Values:
    """Prepare a crop as the published code does: cut a margin, scale by 255 if the maximum of this crop exceeds 1.

    Args:
        values: Shape [D, H, W]; or [C, D, H, W] or [1, C, D, H, W], of which the first channel is taken, uncut.
        margin: Voxels to cut from every face.

    Returns:
        Shape [1, D', H', W'].
    """
    volume = cut_margin(values, margin) if values.ndim == 3 else values.reshape(-1, *values.shape[-3:])[0]
    volume = np.asarray(volume, dtype=np.float32)[None]
    return volume / np.float32(255) if volume.max() > 1 else volume


def flip(values: Values, axis: int) -> Values:
    """Mirror along an axis: -3 for z, -2 for y, -1 for x."""
    return np.flip(values, axis)


def rotate(values: Values, quarters: int) -> Values:
    """Turn by quarters of a circle in the y-x plane, from y towards x."""
    return np.rot90(values, quarters, axes=(-2, -1))


def gamma(volume: Values, exponent: float) -> Values:
    """Raise values in [0, 1] to a power."""
    return np.asarray(np.power(volume, np.float32(exponent)))


def contrast(volume: Values, factor: float) -> Values:
    """Stretch values about their mean, and clamp to [0, 1]."""
    mean = np.float32(volume.mean(dtype=np.float64))
    return np.asarray(np.clip((volume - mean) * np.float32(factor) + mean, 0, 1))


def add_noise(volume: Values, deviation: float, random: np.random.Generator) -> Values:
    """Add Gaussian noise, and clamp to [0, 1]."""
    noise = random.standard_normal(volume.shape, dtype=np.float32)
    return np.asarray(np.clip(volume + noise * np.float32(deviation), 0, 1))


def augment(volume: Values, mask: Values | None, random: np.random.Generator) -> tuple[Values, Values | None]:
    """Flip, rotate, change gamma and contrast, add noise: in this order, each drawn independently.

    Quarter turns need equal height and width; where they differ, only half turns are drawn.

    Args:
        volume: Values in [0, 1].
        mask: Gets the same flips and turns.
        random: Source of all draws.
    """
    both = [volume] if mask is None else [volume, mask]
    for axis in (-3, -2, -1):
        if random.random() < FLIP:
            both = [flip(values, axis) for values in both]
    if random.random() < ROTATION:
        square = volume.shape[-2] == volume.shape[-1]
        quarters = int(random.integers(1, 4)) if square else 2
        both = [rotate(values, quarters) for values in both]
    volume = both[0]
    if random.random() < GAMMA:
        volume = gamma(volume, random.uniform(*SPREAD))
    if random.random() < CONTRAST:
        volume = contrast(volume, random.uniform(*SPREAD))
    if random.random() < NOISE:
        volume = add_noise(volume, random.uniform(0, NOISE_DEVIATION), random)
    return volume, both[1] if mask is not None else None
