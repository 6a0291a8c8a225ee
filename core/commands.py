"""What commands share: an error is one line for the user and an exit code, and a group has a default command."""

import contextlib
import sys
from collections.abc import Iterator

import click
from typer.core import TyperGroup

from core.errors import UserError, one_line


class DefaultCommand(TyperGroup):
    """A group of commands that takes arguments which start with no command as those of its first command."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """Put the default command in front."""
        told = arguments and arguments[0] in (*self.commands, "--help")
        return super().parse_args(context, arguments if told else [next(iter(self.commands)), *arguments])


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print a `UserError` as one line and end with exit code 2; end with 130 after Ctrl-C."""
    try:
        yield
    except (UserError, KeyboardInterrupt) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2) from None
