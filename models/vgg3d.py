"""3-D VGG classifiers of volumes, in both published variants, and the adapter that fine-tunes them.

Architecture and state-dict names follow `Vgg3D` of funkelab/funlib.learn.torch (MIT) and its chromatin variant, which
differ in their defaults and in what they do with a size that a pooling factor does not divide. Written anew.
"""

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from models.vgg3d_shape import CHROMATIN, LIBRARY, VGG3DShape, three

DROPOUT = 0.5
HIDDEN = 4096
"""Width of the published classifier."""
LAYERS = 7
"""Modules of a classifier: linear, ReLU, dropout, linear, ReLU, dropout, linear."""


class Features(nn.Sequential):
    """All layers of all stages as one flat sequence: volumes [B, C, D, H, W] to feature maps [B, C', D', H', W']."""

    def __init__(self, shape: VGG3DShape) -> None:
        """Draw fresh weights from torch's current generator."""
        modules: list[nn.Module] = []
        before = shape.input_fmaps
        for width, count, factors in zip(shape.widths, shape.n_convolutions, shape.downsample_factors, strict=True):
            for _ in range(count):
                modules += [nn.Conv3d(before, width, 3, padding=1), nn.BatchNorm3d(width), nn.ReLU(inplace=True)]
                before = width
            modules.append(nn.MaxPool3d(factors))
        super().__init__(*modules)
        self.shape = shape


class _VolumeClassifier(nn.Module):
    """Features under three linear layers."""

    def __init__(self, features: Features, feature_size: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Sequential(
            nn.Linear(feature_size, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(DROPOUT),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(DROPOUT),
            nn.Linear(hidden, classes),
        )

    def forward(self, volumes: Tensor, return_features: bool = False) -> Tensor:
        """Give logits [B, K] of volumes [B, C, D, H, W], or on request the feature maps [B, C', D', H', W']."""
        maps: Tensor = self.features(volumes)
        return maps if return_features else self.classify(maps)

    def classify(self, features: Tensor) -> Tensor:
        """Give logits [B, K] of feature maps, flattened or not."""
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


class VGG3D(_VolumeClassifier):
    """The published network. Inputs are float volumes [B, input_fmaps, D, H, W] of `input_size`."""

    def __init__(
        self,
        input_size: Sequence[int],
        fmaps: int = LIBRARY.fmaps,
        downsample_factors: Sequence[Sequence[int]] = LIBRARY.downsample_factors,
        fmap_inc: Sequence[int] = LIBRARY.fmap_inc,
        n_convolutions: Sequence[int] = LIBRARY.n_convolutions,
        output_classes: int = 6,
        input_fmaps: int = LIBRARY.input_fmaps,
        *,
        strict: bool = False,
    ) -> None:
        """Make the network with fresh weights; the defaults are the library's.

        Args:
            input_size: Depth, height, width in voxels.
            fmaps: Feature maps of the first stage.
            downsample_factors: Pooling factors (depth, height, width) of each stage.
            fmap_inc: What the number of feature maps is multiplied by after each stage.
            n_convolutions: Convolutions of each stage.
            output_classes: Number of classes.
            input_fmaps: Channels of the input.
            strict: Refuse a size that a factor does not divide, as the library does, instead of rounding down.

        Raises:
            ValueError: The lists differ in length, a number is below 1, or the size does not suit the factors.
        """
        factors = tuple(three(stage, "downsample_factors") for stage in downsample_factors)
        shape = VGG3DShape(fmaps, factors, tuple(fmap_inc), tuple(n_convolutions), input_fmaps)
        feature_size = shape.feature_size(input_size, strict=strict)
        super().__init__(Features(shape), feature_size, HIDDEN, output_classes)

    @classmethod
    def chromatin(cls, input_size: Sequence[int] = (80, 80, 80), output_classes: int = 7) -> Self:
        """Make the chromatin variant: narrower, with a deeper first stage."""
        shape = CHROMATIN
        return cls(input_size, shape.fmaps, n_convolutions=shape.n_convolutions, output_classes=output_classes)


class Adapter(_VolumeClassifier):
    """The features of a trained network under a new, small classifier: what is fine-tuned."""

    def __init__(
        self, base: VGG3D | Features, input_size: Sequence[int], num_classes: int, classifier_size: int = 512
    ) -> None:
        """Put a fresh classifier on features, which are shared with `base`, not copied.

        Its weights are Kaiming-normal (fan-in, ReLU gain) from torch's current generator, its biases zero. The number
        of features is computed from the sizes: no forward pass, which could shift the statistics of a BatchNorm.

        Args:
            base: Gives the features.
            input_size: Depth, height, width of the volumes after any margin is cut, in voxels.
            num_classes: Number of classes.
            classifier_size: Width of the hidden layers.

        Raises:
            ValueError: The input is too small for the features.
        """
        features = base.features if isinstance(base, VGG3D) else base
        super().__init__(features, features.shape.feature_size(input_size), classifier_size, num_classes)
        self.frozen_layers = 0
        for module in self.classifier:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def freeze_classifier(self, count: int) -> None:
        """Freeze the first modules of the classifier, ReLU and dropout counted; a frozen dropout drops nothing.

        Raises:
            ValueError: `count` is not 0 ... 5; the output layer always trains.
        """
        if not 0 <= count <= LAYERS - 2:
            raise ValueError(f"freeze_classifier: {count} modules; give 0 ... {LAYERS - 2}")
        self.frozen_layers = count
        for index, module in enumerate(self.classifier):
            module.requires_grad_(index >= count)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch training behaviour on or off; frozen modules of the classifier stay in evaluation mode."""
        super().train(mode)
        self.classifier[: self.frozen_layers].eval()
        return self
