"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """Input that cannot be used; its message is one line that names file, key, value and remedy.

    Commands print the message without a traceback and end with exit code 2. Any other exception is a fault of
    ours and keeps its traceback.
    """
