"""TensorBoard scalars, written only when asked for."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import UserError


class Scalars:
    """Writes the metrics of each step as `split/metric/name`."""

    def __init__(self, folder: Path) -> None:
        """Find TensorBoard; the folder is made by the first entry.

        Raises:
            UserError: The extra `track` is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "train.tensorboard = true: tensorboard is not installed; install the extra `track` or set it to false"
            ) from None
        self.open_writer = functools.cache(lambda: SummaryWriter(str(folder)))

    def write(self, step: Mapping[str, Any]) -> None:
        """Write one entry of the history."""
        writer = self.open_writer()
        for split in ("train", "val"):
            for name, entry in step.get(split, {}).items():
                for metric, value in entry["metrics"].items():
                    writer.add_scalar(f"{split}/{metric}/{name}", value, step["step"])
        writer.flush()
