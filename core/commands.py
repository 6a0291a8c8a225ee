"""What every command does with an error: one line for the user, and an exit code."""

import contextlib
import sys
from collections.abc import Iterator

from core.errors import UserError


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print a `UserError` as one line and end with exit code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
