"""The base of every config section: frozen, unknown keys refused, field docstrings as descriptions."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo


class Options(BaseModel):
    """A config section. Unknown keys are errors; the string under a field is its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def named(default: str) -> BeforeValidator:
    """Let `optimizer: sgd` stand for `optimizer: {name: sgd}`, and options without a name belong to the default."""

    def complete(value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        return {"name": default, **value} if isinstance(value, dict) else value

    return BeforeValidator(complete)


def _from_root(path: Path, info: ValidationInfo) -> Path:
    root = (info.context or {}).get("root", Path.cwd())
    return (Path(root) / path.expanduser()).resolve()


DataPath = Annotated[Path, AfterValidator(_from_root)]
"""A path that, when relative, starts from the folder the command was given in."""
