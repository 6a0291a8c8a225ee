"""What a 3-D VGG consists of, worked out from its arguments without building anything."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int, int]
"""Depth, height, width: voxels, or factors."""

MODULES_PER_CONVOLUTION = 3
"""Convolution, norm, ReLU."""


@dataclass(frozen=True)
class VGG3DShape:
    """The convolutional part: stages of convolutions, each ended by a max pooling. Defaults: the library's (funlib).

    Attributes:
        fmaps: Feature maps of the first stage.
        downsample_factors: Pooling factors of each stage.
        fmap_inc: What the number of feature maps is multiplied by after each stage; the last one is never used.
        n_convolutions: Convolutions of each stage.
        input_fmaps: Channels of the input.

    Raises:
        ValueError: The three lists differ in length, or a number is below 1.
    """

    fmaps: int = 32
    downsample_factors: tuple[Size, ...] = ((2, 2, 2),) * 4
    fmap_inc: tuple[int, ...] = (2, 2, 2, 2)
    n_convolutions: tuple[int, ...] = (2, 2, 2, 2)
    input_fmaps: int = 1

    def __post_init__(self) -> None:
        """Check that the numbers make a network."""
        lengths = {len(self.downsample_factors), len(self.fmap_inc), len(self.n_convolutions)}
        if len(lengths) > 1 or 0 in lengths:
            raise ValueError(
                f"downsample_factors ({len(self.downsample_factors)}), fmap_inc ({len(self.fmap_inc)}) and "
                f"n_convolutions ({len(self.n_convolutions)}) must be equally long; give each one entry per stage"
            )
        factors = [factor for stage in self.downsample_factors for factor in stage]
        for name, numbers in {
            "fmaps": [self.fmaps],
            "input_fmaps": [self.input_fmaps],
            "fmap_inc": self.fmap_inc,
            "n_convolutions": self.n_convolutions,
            "downsample_factors": factors,
        }.items():
            if min(numbers) < 1:
                raise ValueError(f"{name}: {min(numbers)} is too small; give at least 1")

    @property
    def widths(self) -> tuple[int, ...]:
        """Feature maps of each stage."""
        return tuple(self.fmaps * math.prod(self.fmap_inc[:stage]) for stage in range(len(self.fmap_inc)))

    @property
    def stages(self) -> tuple[range, ...]:
        """Indices of each stage's modules in the flat sequence `features`; the last one is its pooling."""
        lengths = [MODULES_PER_CONVOLUTION * count + 1 for count in self.n_convolutions]
        ends = [sum(lengths[: stage + 1]) for stage in range(len(lengths))]
        return tuple(range(end - length, end) for end, length in zip(ends, lengths, strict=True))

    def output_size(self, input_size: Sequence[int], *, strict: bool = False) -> Size:
        """Give the size of the last feature maps; a size that a factor does not divide is rounded down.

        Args:
            input_size: Depth, height, width in voxels.
            strict: Refuse such a size, as the library does.

        Raises:
            ValueError: Nothing is left of the input, or (strict) a factor does not divide a size.
        """
        size: tuple[int, ...] = three(input_size, "input_size")
        for stage, factors in enumerate(self.downsample_factors):
            if strict and any(length % factor for length, factor in zip(size, factors, strict=True)):
                raise ValueError(f"input_size: {size} at stage {stage} is not divisible by {factors}; change the size")
            size = tuple(length // factor for length, factor in zip(size, factors, strict=True))
        if min(size) < 1:
            least = tuple(math.prod(factors) for factors in zip(*self.downsample_factors, strict=True))
            raise ValueError(f"input_size: {tuple(input_size)} is too small; the network needs at least {least}")
        return three(size, "input_size")

    def feature_size(self, input_size: Sequence[int], *, strict: bool = False) -> int:
        """Count the features of an input, flattened; arguments and errors as in `output_size`."""
        return self.widths[-1] * math.prod(self.output_size(input_size, strict=strict))

    def layout(self) -> dict[str, tuple[int, ...]]:
        """Give name -> shape of everything in the state dict of the features, in its order."""
        layout: dict[str, tuple[int, ...]] = {}
        before = self.input_fmaps
        for width, modules in zip(self.widths, self.stages, strict=True):
            for convolution in modules[:-1:MODULES_PER_CONVOLUTION]:
                norm = f"features.{convolution + 1}"
                layout |= {
                    f"features.{convolution}.weight": (width, before, 3, 3, 3),
                    f"features.{convolution}.bias": (width,),
                    **{f"{norm}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")},
                    f"{norm}.num_batches_tracked": (),
                }
                before = width
        return layout

    def parameters_of_stages(self) -> tuple[tuple[str, ...], ...]:
        """Give for each stage the fnmatch patterns of its parameters' names."""
        return tuple(tuple(f"features.{module}.*" for module in modules) for modules in self.stages)


def three(numbers: Sequence[int], name: str) -> Size:
    """Give depth, height, width.

    Raises:
        ValueError: There are not three numbers.
    """
    if len(numbers) != 3:
        raise ValueError(f"{name}: {tuple(numbers)} does not hold three numbers; give depth, height, width")
    depth, height, width = numbers
    return depth, height, width


LIBRARY = VGG3DShape()
"""The published library network."""
CHROMATIN = VGG3DShape(fmaps=24, n_convolutions=(4, 2, 2, 2))
"""The published network that was pre-trained on synapse crops and fine-tuned on chromatin classes."""
