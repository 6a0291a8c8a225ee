"""Which module a task is in, and what is wrong with one that cannot be used."""

import importlib
import importlib.util
import traceback

from core.errors import UserError, one_line
from training.task import Task


def load_task_class(name: str) -> type[Task]:
    """Find the task class behind a name: `tasks/NAME.py`, or a dotted module anywhere on the path.

    Raises:
        UserError: There is no such module, it cannot be imported, or its `TASK` is missing or not whole.
    """
    module_name = name if "." in name else f"tasks.{name}"
    try:
        spec = importlib.util.find_spec(module_name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise UserError(f"task = {name!r}: no such task; give a name that `python -m tasks` lists, or a dotted module")
    try:
        task = getattr(importlib.import_module(module_name), "TASK", None)
    except Exception as error:
        cause = f"{type(error).__name__}: {one_line(error)}{_line(error, spec.origin)}"
        raise UserError(f"task = {name!r}: {module_name} cannot be imported ({cause}); mend the module") from error
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise UserError(f"task = {name!r}: {module_name} ends in no `TASK = YourTask`, a subclass of Task; add it")
    if lacking := _lacking(task):
        raise UserError(f"task = {name!r}: {task.__name__} lacks {', '.join(lacking)}; see docs/new_task.md")
    return task


def _line(error: Exception, file: str | None) -> str:
    """Say which line of a file raised an error; nothing where Python says it itself, as of wrong syntax."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", line {lines[-1]} of {file}" if lines else ""


def _lacking(task: type[Task]) -> list[str]:
    """Name what every task must define and this one does not."""
    values = [name for name in ("Fitted", "primary") if not hasattr(task, name)]
    further = task.passes > 1 and task.further_statistics is Task.further_statistics
    return [*values, *sorted(task.__abstractmethods__), *(["further_statistics"] if further else [])]
