"""How sure an imputed value is: what the spread of the latent posterior does to it."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]


def confidence(sd_NO: Array) -> Array:
    """Give 1 / (1 + CV), where CV = exp(sd) - 1 is the coefficient of variation of values on a log scale, [N, O]."""
    return np.exp(-sd_NO)


@torch.no_grad()
def sampled_deviation(draw: Callable[[], Tensor], n_samples: int) -> Tensor:
    """Draw predictions [N, O] and give their standard deviation, [N, O].

    Draws are summed up one by one (Welford), so that memory does not grow with their number.

    Args:
        draw: Gives predictions from a new draw of the posterior.
        n_samples: How many, at least 2.
    """
    average_NO = squares_NO = torch.zeros(())
    for count in range(1, n_samples + 1):
        drawn_NO = draw()
        deviation_NO = drawn_NO - average_NO
        average_NO = average_NO + deviation_NO / count
        squares_NO = squares_NO + deviation_NO * (drawn_NO - average_NO)
    return (squares_NO / (n_samples - 1)).sqrt()
