"""Images enlarged to a size that a network or a window needs."""

from torch import Tensor
from torch.nn.functional import pad


def pad_to(images: Tensor, height: int, width: int) -> Tensor:
    """Enlarge images [..., C, H, W] at the bottom and on the right to at least `height` x `width` pixels.

    An axis is mirrored at its last pixel, which is not repeated; where it is too short for that (it has at most as many
    pixels as are missing), zeros are added.
    """
    missing = max(0, width - images.shape[-1])
    images = pad(images, (0, missing, 0, 0), _mode(missing, images.shape[-1]))
    missing = max(0, height - images.shape[-2])
    return pad(images, (0, 0, 0, missing), _mode(missing, images.shape[-2]))


def _mode(missing: int, size: int) -> str:
    return "reflect" if 0 < missing < size else "constant"
