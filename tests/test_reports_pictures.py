"""What a reader of the pictures can read off."""

from pathlib import Path

import pytest
from matplotlib.axes import Axes

from reports.drawing import literal_text
from reports.plots import groups_of, per_client_curves
from tests.run_folders import compared, write_comparison


@pytest.mark.parametrize("count", range(1, 8))
def test_every_column_of_panels_ends_in_numbers(count: int, tmp_path: Path) -> None:
    comparison = compared(write_comparison(tmp_path, (0,)))
    clients = (comparison.clients * 3)[:count]
    with literal_text():
        figure = per_client_curves(groups_of(comparison.records), clients, comparison.primary)
        figure.canvas.draw()
    shown = [panel for panel in figure.axes if panel.get_visible()]
    assert len(shown) == count
    lowest = {round(panel.get_position().x0, 2): panel for panel in shown}
    for panel in shown:
        assert numbered(panel) == (panel in lowest.values())


def numbered(panel: Axes) -> bool:
    return any(label.get_visible() and label.get_text() for label in panel.get_xticklabels())
