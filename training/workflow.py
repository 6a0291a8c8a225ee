"""What the Snakemake workflow is asked for, and how it knows a training that it need not repeat."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from core.errors import UserError
from training.mistakes import explain
from training.options import Options

RESULTS = ("basis.json", "status.json", "eval_summary.json")


class Asked(Options):
    """Keys of --config."""

    experiments: Path
    """The YAML that lists the experiments."""
    setting: Literal["centralized", "local", "federated", "compare"] = "centralized"
    """How they are trained."""
    results: Path = Path("results")
    """Where run folders go."""
    overrides: str = ""
    """Laid over every experiment: `train.lr=0.01 seed=7`."""
    engine: Literal["flower", "inprocess"] = "flower"
    """How a federation is simulated."""
    mem_mb: int = Field(8000, gt=0)
    """Memory of one training, in megabytes; each further attempt gets as much more."""
    runtime: int = Field(720, gt=0)
    """Minutes of one training."""

    @field_validator("engine")
    @classmethod
    def _has_an_effect(cls, engine: str, info: ValidationInfo) -> str:
        setting = info.data.get("setting")
        if setting in ("centralized", "local"):
            raise ValueError(f"has no effect with setting = {setting}; leave it out")
        return engine

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "Asked":
        """Check what a user gave.

        Raises:
            UserError: A key or a value cannot be used.
        """
        try:
            return cls.model_validate(config)
        except ValidationError as error:
            raise UserError(explain("--config", "", cls, error)) from None


def stand(place: Path) -> str:
    """Give what the place of an experiment says of itself: what it rests on, and how each of its runs ended.

    It is another text once the runs are gone, or have been made from another config or other data.
    """
    paths = sorted(path for path in place.rglob("*.json") if path.name in RESULTS)
    return "".join(f"{path.relative_to(place).as_posix()}\n{path.read_text(encoding='utf-8')}" for path in paths)


if __name__ == "__main__":
    print(stand(Path(sys.argv[1])), end="")
