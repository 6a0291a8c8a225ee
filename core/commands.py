"""What every command does with an error: one line for the user, and an exit code."""

import contextlib
import sys
from collections.abc import Iterator

from core.errors import UserError, one_line


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print a `UserError` as one line and end with exit code 2; end with 130 after Ctrl-C."""
    try:
        yield
    except (UserError, KeyboardInterrupt) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2) from None
