"""What a call does with input that cannot be used: one line that names what is wrong."""

from collections.abc import Callable

import pytest

from core.errors import UserError


def refused(act: Callable[[], object], *expected: str) -> str:
    """Check that a call refuses its input in one line with these parts; give the line."""
    with pytest.raises(UserError) as caught:
        act()
    (line,) = str(caught.value).splitlines()
    for part in expected:
        assert part in line
    return line
