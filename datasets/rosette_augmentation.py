"""Random changes of training patches: mirrored, turned, bent, moved, and with holes, in this order.

What moves pixels acts on channels, target and validity mask together. Every draw comes from the generator given.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from core.errors import UserError

Origin = Callable[[Tensor], Tensor]
"""Where the pixels at some places come from: places to places, [2, P, P], x and y in pixels from the centre."""

CHANGES = (
    "horizontal_flip",
    "vertical_flip",
    "rotation",
    "elastic_transform",
    "affine_transform",
    "coarse_dropout",
)
"""In the order in which they are applied."""


@dataclass(frozen=True)
class Augmentation:
    """How often and how much patches are changed; a probability of 0 removes a change.

    Attributes:
        horizontal_flip: Probability of mirroring left and right.
        vertical_flip: Probability of mirroring top and bottom.
        rotation: Probability of a turn by 0, 90, 180 or 270 degrees, each as likely.
        elastic_transform: Probability of bending: a jitter, then displacements that vary smoothly.
        affine_transform: Probability of scaling, turning and shifting.
        coarse_dropout: Probability of holes in the channels; the target keeps what was there.
        elastic_sigma: Pixels; standard deviation of the Gaussian that blurs the noise.
        elastic_scale: Factor on the blurred noise, which gives the displacement in pixels; at 120 and a sigma of 6
            its standard deviation is 5.6 pixels along each axis.
        elastic_jitter: Pixels by which three corners of a central square, two thirds of the patch wide, move at most
            along each axis; the affine map that follows from them is applied to the whole patch.
        scale: Least and greatest factor, drawn for each axis.
        shift: Largest shift along each axis, as a share of the side.
        turn: Largest turn, in degrees.
        holes: Least and greatest number of holes.
        hole_size: Least and greatest side of a hole, in pixels, drawn for each side; no larger than the patch.
        rethreshold: Whether binary channels, which interpolation makes fractional, are set to 0 and 1 again: 1 from
            0.5 on.
        binary_channels: Channels that are binary, from the first on; all others are left as they are.
    """

    horizontal_flip: float = 0.5
    vertical_flip: float = 0.5
    rotation: float = 0.5
    elastic_transform: float = 0.25
    affine_transform: float = 0.5
    coarse_dropout: float = 0.2
    elastic_sigma: float = 6.0
    elastic_scale: float = 120.0
    elastic_jitter: float = 3.6
    scale: tuple[float, float] = (0.9, 1.1)
    shift: float = 0.1
    turn: float = 15.0
    holes: tuple[int, int] = (1, 5)
    hole_size: tuple[int, int] = (10, 40)
    rethreshold: bool = False
    binary_channels: int = 2

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: A probability is not within 0 and 1, a size is negative, or a range is empty.
        """
        for key in CHANGES:
            self._check(key, 0 <= getattr(self, key) <= 1, "a probability from 0 to 1")
        for key in ("elastic_scale", "elastic_jitter", "shift", "turn", "binary_channels"):
            self._check(key, 0 <= getattr(self, key) < math.inf, "a number from 0 on")
        self._check("elastic_sigma", 0 < self.elastic_sigma < math.inf, "a number above 0")
        for key, least, most in (("scale", math.ulp(0.0), 1000), ("holes", 0, 1000), ("hole_size", 1, 100_000)):
            low, high = getattr(self, key)
            above = "above 0" if least else "from 0 on"
            self._check(key, least <= low <= high <= most, f"a least and a greatest value, {above}, up to {most}")

    def _check(self, key: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise UserError(f"augmentation.{key} = {getattr(self, key)!r}: cannot be used; give {wanted}")


def augment(patch: Mapping[str, Tensor], options: Augmentation, random: torch.Generator) -> dict[str, Tensor]:
    """Change a square patch at random.

    Bending and the affine change are composed into one map of places, so that pixels are interpolated once:
    channels bilinearly, target and validity mask by the nearest pixel. What comes from outside the patch is 0, and
    not valid.

    Args:
        patch: `channels` [C, P, P], `target` [1, P, P] and `valid` [1, P, P], float32; left as it is.
        options: What happens how often.
        random: Source of all draws, on the CPU.

    Returns:
        The same keys and shapes.
    """
    moved = torch.cat([patch["channels"], patch["target"], patch["valid"]])
    if _happens(options.horizontal_flip, random):
        moved = moved.flip(-1)
    if _happens(options.vertical_flip, random):
        moved = moved.flip(-2)
    if _happens(options.rotation, random):
        moved = moved.rot90(_integer((0, 3), random), (-2, -1))
    channels, marks = moved[:-2], moved[-2:]
    origins = draw_origins(channels.shape[-1], options, random)
    if origins:
        places = source_places(channels.shape[-1], origins)
        channels = sample_at(channels, places, "bilinear")
        marks = sample_at(marks, places, "nearest")
        if options.rethreshold:
            channels[: options.binary_channels] = (channels[: options.binary_channels] >= 0.5).float()
    if _happens(options.coarse_dropout, random):
        channels = drop_holes(channels, options, random)
    return {"channels": channels, "target": marks[:1], "valid": marks[1:]}


def draw_origins(size: int, options: Augmentation, random: torch.Generator) -> list[Origin]:
    """Draw what moves pixels by other than whole steps, in the order in which it is applied to the patch."""
    origins: list[Origin] = []
    if _happens(options.elastic_transform, random):
        limit = options.elastic_jitter
        corners = [(_uniform((-limit, limit), random), _uniform((-limit, limit), random)) for _ in range(3)]
        noise = torch.randn(2, size, size, generator=random)
        origins += [jitter(size, corners), displacement(options.elastic_scale * blurred(noise, options.elastic_sigma))]
    if _happens(options.affine_transform, random):
        scale = _uniform(options.scale, random), _uniform(options.scale, random)
        limit = options.shift * size
        shift = _uniform((-limit, limit), random), _uniform((-limit, limit), random)
        origins.append(affine(scale, shift, _uniform((-options.turn, options.turn), random)))
    return origins


def affine(scale: tuple[float, float], shift: tuple[float, float], degrees: float) -> Origin:
    """Scale a patch about its centre, then turn it clockwise, then shift it.

    Args:
        scale: Factors along x and y.
        shift: Pixels along x and y, to the right and downwards.
        degrees: Angle of the turn.
    """
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def origin(places_2PP: Tensor) -> Tensor:
        x, y = places_2PP[0] - shift[0], places_2PP[1] - shift[1]
        return torch.stack([(cosine * x + sine * y) / scale[0], (cosine * y - sine * x) / scale[1]])

    return origin


def jitter(size: int, corners: Sequence[tuple[float, float]]) -> Origin:
    """Move a patch by the affine map that three corners of its central square define.

    Args:
        size: Pixels per side of the patch.
        corners: How far off along x and y those pixels come from that end at the corners top left, top right, bottom
            right of the square; its side is two thirds of the patch.
    """
    (left_x, left_y), (middle_x, middle_y), (right_x, right_y) = corners
    side = 2 * size / 3

    def origin(places_2PP: Tensor) -> Tensor:
        along_x, along_y = places_2PP / side
        moved_x = (middle_x - left_x) * along_x + (right_x - middle_x) * along_y + (left_x + right_x) / 2
        moved_y = (middle_y - left_y) * along_x + (right_y - middle_y) * along_y + (left_y + right_y) / 2
        return places_2PP + torch.stack([moved_x, moved_y])

    return origin


def displacement(field_2PP: Tensor) -> Origin:
    """Take each pixel from as far off along x and y, in pixels, as a field says at its place."""
    return lambda places_2PP: places_2PP + sample_at(field_2PP, places_2PP, "bilinear", beyond="border")


def blurred(noise_2PP: Tensor, sigma: float) -> Tensor:
    """Convolve a pair of square images with a Gaussian of `sigma` pixels that wraps around at the edges.

    One Fourier transform serves both, as real and imaginary part: the kernel is real, and keeps them apart.
    """
    frequency = torch.fft.fftfreq(noise_2PP.shape[-1])
    gain = torch.exp(-2 * (math.pi * sigma * frequency) ** 2)
    both = torch.fft.ifft2(torch.fft.fft2(torch.complex(*noise_2PP)) * (gain[:, None] * gain))
    return torch.stack([both.real, both.imag])


def source_places(size: int, origins: Sequence[Origin]) -> Tensor:
    """Follow every pixel of a patch back through the changes, from the last to the first.

    Returns:
        Where it comes from, [2, P, P]; far outside the patch where any change took it from outside.
    """
    along = torch.arange(size) - (size - 1) / 2
    places = torch.stack(torch.meshgrid(along, along, indexing="xy"))
    outside = torch.zeros(size, size, dtype=torch.bool)
    for origin in reversed(origins):
        places = origin(places)
        outside |= (places.abs() > size / 2).any(0)
    return places.masked_fill(outside, 2.0 * size)


def sample_at(values_CPP: Tensor, places_2PP: Tensor, mode: str, beyond: str = "zeros") -> Tensor:
    """Look values up at places, interpolating as `mode` says; outside they are 0, or those of the border."""
    grid = places_2PP.permute(1, 2, 0) * (2 / values_CPP.shape[-1])
    return grid_sample(values_CPP[None], grid[None], mode=mode, padding_mode=beyond, align_corners=False)[0]


def drop_holes(channels_CPP: Tensor, options: Augmentation, random: torch.Generator) -> Tensor:
    """Set rectangles to 0 in all channels; they lie within the patch and may overlap."""
    dropped = channels_CPP.clone()
    size = dropped.shape[-1]
    for _ in range(_integer(options.holes, random)):
        height, width = (min(_integer(options.hole_size, random), size) for _ in range(2))
        top, left = _integer((0, size - height), random), _integer((0, size - width), random)
        dropped[:, top : top + height, left : left + width] = 0
    return dropped


def _happens(probability: float, random: torch.Generator) -> bool:
    return torch.rand((), generator=random).item() < probability


def _uniform(limits: tuple[float, float], random: torch.Generator) -> float:
    return limits[0] + (limits[1] - limits[0]) * torch.rand((), generator=random).item()


def _integer(limits: tuple[int, int], random: torch.Generator) -> int:
    """Draw a whole number, both limits included."""
    return int(torch.randint(limits[0], limits[1] + 1, (), generator=random))
