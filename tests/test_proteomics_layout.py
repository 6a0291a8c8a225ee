"""Files that would be passed over because of their names, and a platform with them."""

import shutil
from pathlib import Path

import pytest

from datasets.proteomics import Study
from datasets.proteomics_layout import SamplePlacement, holds_platforms
from tests.refusals import refused

FIXTURES = Path(__file__).parent / "fixtures" / "proteomics"
NAMES = [
    "platform_B.csv",
    "Platform_b.csv",
    "platform_b.CSV",
    "platform_b.csv.gz",
    "platform_b.xlsx",
    "platform-b.csv",
    "olink.csv",
]

pytestmark = pytest.mark.filterwarnings("ignore:.*left out")


@pytest.fixture
def client(tmp_path: Path) -> Path:
    folder = tmp_path / "study" / "north"
    folder.mkdir(parents=True)
    for platform in "ab":
        shutil.copy(FIXTURES / f"platform_{platform}.csv", folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_misnamed_platform_is_not_passed_over(client: Path, name: str) -> None:
    (client / "platform_b.csv").rename(client / name)
    said = (f"north/{name}: is neither platform_a.csv nor platform_b.csv", "rename, unpack or move it")
    refused(lambda: Study.open(client.parent, SamplePlacement()), *said)
    refused(lambda: holds_platforms(client.parent), *said)


@pytest.mark.parametrize("name", NAMES[:-1])
def test_nor_in_one_pair_of_files(client: Path, name: str) -> None:
    (client / "platform_b.csv").rename(client / name)
    refused(lambda: Study.open(client, SamplePlacement(partition="evenly", clients=2)), f"north/{name}: is neither")


def test_tables_of_other_kinds_may_stand_beside(client: Path) -> None:
    """Where both platforms are there, no other file can be meant; and no picture, hidden or written file is a table."""
    (client / "clinic.csv").write_text("id,age\n")
    assert Study.open(client.parent, SamplePlacement()).clients == ["north"]
    (client / "platform_b.csv").unlink()
    (client / "clinic.csv").rename(client / ".platform_b.csv")
    (client / "platform_b.png").touch()
    (client / "README").touch()
    study = Study.open(client.parent, SamplePlacement())
    assert study.own_features["north"].keys() == {"a"}
    (client.parent / "clients.txt").touch()
    assert Study.open(client.parent, SamplePlacement()).clients == ["north"]
