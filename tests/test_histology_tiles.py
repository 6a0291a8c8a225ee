"""Tiles: the recorded pixels, refused files, normalisation, and augmentation that is a pure function."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from datasets.histology_tiles import AugmentedTiles, Tiles, channel_sums, image_digest, jittered, read_tile, tile_cache

RECORDED = np.load(Path(__file__).parent / "fixtures" / "image_expression" / "image_transforms.npz")
SIZE = int(RECORDED["image_size"])


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    for number in range(3):
        pixels = random.integers(0, 256, (12, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return [tmp_path / f"{number}.png" for number in range(3)]


def tiles(files: list[Path], kind: type[Tiles] = Tiles, **changes: object) -> Tiles:
    targets = torch.arange(6.0).reshape(3, 2)
    parts = {"names": [file.name for file in files], "units": ["a", "a", "b"], "size": 8, "mean": [0.0] * 3}
    return kind(files=files, **{**parts, "deviation": [1.0] * 3, "targets": targets, "scaled": -targets, **changes})


@pytest.mark.parametrize("case", ["rgb_down", "rgb_up", "gray", "rgba"])
def test_pixels_are_the_recorded_ones(tmp_path: Path, case: str) -> None:
    path = tmp_path / f"{case}.png"
    Image.fromarray(RECORDED[f"{case}__in"]).save(path)
    image = tiles([path], size=SIZE)[0]["image"]
    assert image.dtype == torch.float32 and image.shape == (3, SIZE, SIZE)
    np.testing.assert_allclose(image.numpy(), RECORDED[f"{case}__out"], rtol=0, atol=1e-6)


def test_files_that_are_no_images_are_named(files: list[Path], tmp_path: Path) -> None:
    damaged = {"text.png": b"not an image", "cut.png": files[0].read_bytes()[:-60], "empty.png": b""}
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: not a readable image .*; restore the file or drop its row"):
            read_tile(tmp_path / name, 8)
        with pytest.raises(UserError, match=f"{name}: not a readable image"):
            image_digest(tmp_path / name)
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"deep.png: image mode I;16 has more than 8 bits"):
        read_tile(tmp_path / "deep.png", 8)
    with pytest.raises(UserError, match=r"gone.png: no such image file"):
        read_tile(tmp_path / "gone.png", 8)


def test_samples_hold_image_target_and_scaled_target(files: list[Path]) -> None:
    plain = tiles(files)
    sample = plain[1]
    assert len(plain) == 3 and not hasattr(plain, "reseed")
    assert sample["target"].tolist() == [2, 3] and sample["scaled"].tolist() == [-2, -3]
    assert torch.equal(sample["image"], torch.tensor(read_tile(files[1], 8)) / 255)
    shifted = tiles(files, mean=[0.5, 0.0, 0.25], deviation=[0.5, 1.0, 2.0])[1]["image"]
    back = shifted * torch.tensor([0.5, 1.0, 2.0])[:, None, None] + torch.tensor([0.5, 0.0, 0.25])[:, None, None]
    torch.testing.assert_close(back, sample["image"])


def test_channel_sums_are_exact_and_add_up(files: list[Path]) -> None:
    whole, first, rest = (channel_sums(part, 8) for part in (files, files[:1], files[1:]))
    pixels = np.stack([read_tile(file, 8) for file in files]).astype(np.int64)
    assert whole["pixels"] == [3 * 64] * 3
    assert whole["pixel_sum"] == pixels.sum(axis=(0, 2, 3)).tolist()
    assert whole["pixel_squares"] == (pixels**2).sum(axis=(0, 2, 3)).tolist()
    assert all(np.add(first[name], rest[name]).tolist() == whole[name] for name in whole)


def test_decoded_tiles_are_kept_up_to_the_limit(files: list[Path]) -> None:
    cache = tile_cache(8)
    cache.clear()
    cache.limit = 2 * 3 * 8 * 8
    kept = tiles(files)
    for index in (0, 1, 0, 1):
        kept[index]
    assert (cache.reads, cache.size) == (2, cache.limit)
    kept[2]
    kept[0]
    assert (cache.reads, cache.size) == (4, cache.limit)


def augmented(files: list[Path], seed: int, **changes: object) -> list[torch.Tensor]:
    changed = tiles(files, AugmentedTiles, **changes)
    changed.reseed(seed)  # type: ignore[attr-defined]
    return [changed[index]["image"] for index in range(3)]


def test_augmentation_is_a_pure_function_of_seed_and_tile(files: list[Path]) -> None:
    first, again = augmented(files, 5, jitter=0.3), augmented(files, 5, jitter=0.3)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    backwards = tiles(files, AugmentedTiles, jitter=0.3)
    backwards.reseed(5)  # type: ignore[attr-defined]
    assert torch.equal(backwards[2]["image"], first[2]) and torch.equal(backwards[0]["image"], first[0])
    others = [augmented(files, seed, jitter=0.3) for seed in range(6, 9)]
    assert all(not torch.equal(other[0], first[0]) for other in others)


def test_mirrors_and_quarter_turns_reach_all_eight_positions(files: list[Path]) -> None:
    plain = tiles(files)[0]["image"]
    orbit = {
        torch.rot90(image, turns, (1, 2)).numpy().tobytes() for image in (plain, plain.flip(2)) for turns in range(4)
    }
    seen = {augmented(files, seed)[0].contiguous().numpy().tobytes() for seed in range(80)}
    assert seen == orbit and len(orbit) == 8


def test_colour_jitter_by_hand() -> None:
    grey = torch.full((3, 2, 2), 0.5)
    torch.testing.assert_close(jittered(grey, 1.2, 1.0, 1.0), torch.full((3, 2, 2), 0.6))
    torch.testing.assert_close(jittered(grey, 1.0, 0.7, 1.3), grey)
    red = torch.zeros(3, 1, 1)
    red[0] = 0.8
    torch.testing.assert_close(jittered(red, 1.0, 1.0, 0.0).flatten(), torch.full((3,), 0.8 * 0.299))
    halves = torch.tensor([0.2, 0.6]).expand(3, 1, 2)
    torch.testing.assert_close(jittered(halves, 1.0, 0.5, 1.0)[0, 0], torch.tensor([0.3, 0.5]))


def test_jitter_alone_keeps_the_geometry(files: list[Path]) -> None:
    changed = augmented(files, 1, geometry=False, jitter=0.1)[0]
    plain = tiles(files)[0]["image"]
    assert not torch.equal(changed, plain) and (changed - plain).abs().max() < 0.35
    assert torch.corrcoef(torch.stack([changed.flatten(), plain.flatten()]))[0, 1] > 0.95
