"""The one exception that stands for a user's mistake, and how any exception is put in one line."""


class UserError(Exception):
    """Input that cannot be used; its message is one line that names file, key, value and remedy.

    Commands print the message without a traceback and end with exit code 2. Any other exception is a fault of
    ours and keeps its traceback.
    """


def one_line(error: BaseException) -> str:
    """Give what an exception says as one line that is never empty."""
    said = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return said or "interrupted"
    return f"{type(error).__name__}: {said}" if isinstance(error, LookupError) else said or type(error).__name__
