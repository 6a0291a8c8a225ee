"""Which weights are final, and when to stop: one rule for epochs and for rounds."""

import math
from typing import Any


class Selection:
    """Follows the monitored validation metric."""

    def __init__(self, higher_is_better: bool, patience: int | None) -> None:
        """Start without a best step; `patience` is the number of validations without improvement, or None."""
        self.higher_is_better, self.patience = higher_is_better, patience
        self.best_step, self.best_value, self.stale = 0, math.nan, 0

    def update(self, step: int, value: float) -> bool:
        """Take the value of a step and tell whether it is the best so far. NaN never is."""
        better = value > self.best_value if self.higher_is_better else value < self.best_value
        if better or (self.best_step == 0 and not math.isnan(value)):
            self.best_step, self.best_value, self.stale = step, value, 0
            return True
        self.stale += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Tell whether training should end early."""
        return self.patience is not None and self.stale >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Give the plain values to store."""
        return {"best_step": self.best_step, "best_value": self.best_value, "stale": self.stale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from stored values."""
        self.best_step, self.best_value, self.stale = state["best_step"], state["best_value"], state["stale"]
