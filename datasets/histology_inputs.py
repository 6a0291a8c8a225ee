"""New images, of which nobody knows the expression: one file, a folder, or a CSV with their paths."""

from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError
from datasets.histology import METADATA
from datasets.histology_table import image_rows
from datasets.histology_tiles import check_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
TABLES = (".csv", ".tsv")


@dataclass(frozen=True)
class NewImages:
    """Images by name.

    Attributes:
        names: Ids: paths as a CSV gives them, or from the folder named.
        files: Where they are.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]


def open_images(path: Path, path_key: str) -> NewImages:
    """List new images, and look at each.

    Args:
        path: An image; a folder with images in it, however deep; or a CSV, by itself or as `metadata.csv` of a folder.
        path_key: Column of the CSV with image files; relative ones start from the CSV.

    Raises:
        UserError: There are none, or one cannot be used.
    """
    table = path / METADATA if (path / METADATA).is_file() else path
    if table.suffix.lower() in TABLES:
        names, files = image_rows(table, path_key, table.parent)
    elif path.is_dir():
        files = tuple(sorted(file for file in path.rglob("*") if _is_image(file.relative_to(path))))
        names = tuple(file.relative_to(path).as_posix() for file in files)
    else:
        names, files = (path.name,), (path,)
    if not files:
        raise UserError(f"{path}: holds no image ({', '.join(SUFFIXES)}); name a folder with some, an image, or a CSV")
    for file in files:
        check_image(file)
    return NewImages(names, files)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)
