"""Changes of patches: by hand on small ones, by properties on large ones, by counting how often each happens."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from datasets.rosette_augmentation import (
    CHANGES,
    Augmentation,
    affine,
    augment,
    blurred,
    displacement,
    draw_origins,
    drop_holes,
    jitter,
    sample_at,
    source_places,
)
from tests.refusals import refused

NEVER = dict.fromkeys(CHANGES, 0.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def only(*names, **parameters):
    return Augmentation(**{**NEVER, **dict.fromkeys(names, 1.0), **parameters})


def patch(size=16, channels=3, seed=0):
    random = torch.rand(channels + 1, size, size, generator=seeded(seed))
    return {
        "channels": random[:-1],
        "target": (random[-1:] > 0.6).float(),
        "valid": torch.ones(1, size, size),
    }


def numbers(rows):
    """Give a patch all of whose parts are the same small image."""
    values = torch.tensor(rows, dtype=torch.float32)[None]
    return {"channels": torch.cat([values, values]), "target": values, "valid": values}


def moved(rows, *origins, mode="bilinear"):
    values = torch.tensor(rows, dtype=torch.float32)[None]
    return sample_at(values, source_places(values.shape[-1], origins), mode)[0]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def eroded(mask, pixels):
    """Take away what is as near to the edge of a mask; the edge of the image is none."""
    return torch.from_numpy(ndimage.binary_erosion(mask.numpy(), iterations=pixels, border_value=1))


@pytest.mark.parametrize(
    ("name", "expected"), [("horizontal_flip", [[2, 1], [4, 3]]), ("vertical_flip", [[3, 4], [1, 2]])]
)
def test_flips_by_hand(name, expected):
    assert same(augment(numbers([[1, 2], [3, 4]]), only(name), seeded()), numbers(expected))


def test_turns_by_hand():
    turned = [numbers(rows) for rows in ([[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]])]
    random = seeded()
    found = [augment(turned[0], only("rotation"), random) for _ in range(2000)]
    counts = [sum(same(one, other) for one in found) for other in turned]
    assert sum(counts) == 2000 and all(abs(count - 500) < 80 for count in counts)


def test_what_is_mirrored_first_is_turned_next():
    options = only("horizontal_flip", "vertical_flip", "rotation")
    before = patch()
    found = [augment(before, options, seeded(seed)) for seed in range(20)]
    for quarters in range(4):
        expected = {key: value.flip(-1, -2).rot90(quarters, (-2, -1)) for key, value in before.items()}
        assert any(same(one, expected) for one in found)


def test_nothing_happens_with_probabilities_of_zero():
    before = patch()
    for seed in range(20):
        assert same(augment(before, Augmentation(**NEVER), seeded(seed)), before)


@pytest.mark.parametrize("options", [Augmentation(), only(*CHANGES)])
def test_a_change_is_a_function_of_the_generator_and_leaves_its_input(options):
    before, copy = patch(64), patch(64)
    state = torch.get_rng_state()
    found = [augment(before, options, seeded(seed)) for seed in range(8)]
    again = [augment(before, options, seeded(seed)) for seed in range(8)]
    assert all(same(one, other) for one, other in zip(found, again, strict=True))
    assert len({one["channels"].sum().item() for one in found}) > 5
    assert same(before, copy) and torch.equal(torch.get_rng_state(), state)
    assert all(one[key].shape == before[key].shape for one in found for key in before)


def test_a_shift_by_hand():
    rows = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]
    expected = [[0, 9, 10, 11], [0, 13, 14, 15], [0] * 4, [0] * 4]
    for mode in ("bilinear", "nearest"):
        assert moved(rows, affine((1, 1), (1, -2), 0), mode=mode).tolist() == expected
    assert moved([[8, 4], [0, 0]], affine((1, 1), (0.25, 0), 0)).tolist() == [[6, 5], [0, 0]]


def test_a_scale_by_hand():
    rows = [[0, 4, 8, 12]] * 4
    # Twice as wide about the centre: places -1.5 ... 1.5 come from -0.75, -0.25, 0.25, 0.75.
    assert moved(rows, affine((2, 1), (0, 0), 0)).tolist() == [[3, 5, 7, 9]] * 4
    columns = torch.tensor(rows).T.tolist()
    assert moved(columns, affine((1, 2), (0, 0), 0)).T.tolist() == [[3, 5, 7, 9]] * 4


def test_a_turn_by_hand():
    rows = torch.rand(5, 5, generator=seeded())
    torch.testing.assert_close(moved(rows.tolist(), affine((1, 1), (0, 0), 90)), rows.rot90(-1), atol=1e-5, rtol=0)
    # Scaled first, then turned, then shifted: the pixel right of the centre goes 2 down, then 1 to the left.
    rows = torch.zeros(7, 7)
    rows[3, 4] = 1
    found = moved(rows.tolist(), affine((2, 1), (-1, 0), 90), mode="nearest")
    assert found[5, 2] == 1 and found[3, 4] == 0


def test_a_jitter_moves_the_corners_by_what_it_is_told():
    size = 30
    corners = torch.tensor([[-10.0, 10.0, 10.0], [-10.0, -10.0, 10.0]])
    offsets = [(1.0, -2.0), (0.5, 3.0), (-3.0, 0.25)]
    expected = corners + torch.tensor(offsets).T
    torch.testing.assert_close(jitter(size, offsets)(corners[:, :, None])[:, :, 0], expected)
    places = torch.rand(2, 4, 4, generator=seeded())
    shift = torch.tensor([1.5, -0.5])[:, None, None]
    torch.testing.assert_close(jitter(size, [(1.5, -0.5)] * 3)(places), places + shift)


def test_a_displacement_by_hand():
    field = torch.zeros(2, 3, 3)
    field[0, 1], field[1, :, 2] = 1, -1
    # The middle row comes from one to the right, the last column from one above.
    assert moved([[1, 2, 3], [4, 5, 6], [7, 8, 9]], displacement(field)).tolist() == [[1, 2, 0], [5, 6, 0], [7, 8, 6]]


@pytest.mark.parametrize(("size", "sigma"), [(64, 6.0), (45, 2.5)])
def test_noise_is_blurred_as_by_scipy_around_the_edges(size, sigma):
    noise = torch.randn(2, size, size, generator=seeded())
    expected = [ndimage.gaussian_filter(one.double().numpy(), sigma, mode="wrap", truncate=8) for one in noise]
    np.testing.assert_allclose(blurred(noise, sigma), expected, atol=1e-5)


def test_bending_moves_pixels_by_as_much_as_documented():
    options = only("elastic_transform", elastic_jitter=0.0)
    still = source_places(256, [])
    moves = torch.cat([source_places(256, draw_origins(256, options, seeded(seed))) - still for seed in range(4)])
    inside = moves[moves.abs() < 60]
    # Noise blurred by sigma keeps 1 / (2 sigma sqrt(pi)) of its deviation.
    assert inside.std().item() == pytest.approx(120 / (2 * 6 * math.sqrt(math.pi)), rel=0.1)


def test_what_left_the_patch_does_not_come_back():
    rows = [[1, 2, 3, 4]] * 4
    there, back = affine((1, 1), (2, 0), 0), affine((1, 1), (-2, 0), 0)
    assert moved(rows, there, back).tolist() == [[1, 2, 0, 0]] * 4
    assert moved(rows, back, there).tolist() == [[0, 0, 3, 4]] * 4


def test_one_map_does_what_its_parts_do_in_their_order():
    size = 96
    smooth = blurred(torch.randn(2, size, size, generator=seeded(5)), 8.0)
    origins = draw_origins(size, only("elastic_transform", "affine_transform"), seeded(1))
    assert len(origins) == 3
    step_by_step = smooth
    for origin in origins:
        step_by_step = sample_at(step_by_step, source_places(size, [origin]), "bilinear")
    at_once = sample_at(smooth, source_places(size, origins), "bilinear")
    swapped = sample_at(smooth, source_places(size, origins[::-1]), "bilinear")
    inner = (slice(None), slice(24, -24), slice(24, -24))
    # Interpolating three times blurs a little; another order gives another image.
    assert (at_once - step_by_step)[inner].std() < 0.02 * smooth.std()
    assert (swapped - step_by_step)[inner].std() > 0.2 * smooth.std()


@pytest.mark.parametrize("names", [("elastic_transform",), ("affine_transform",), CHANGES[:5]], ids=str)
def test_channels_target_and_validity_move_together(names):
    size = 64
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    before = patch(size)
    before["channels"] = torch.stack([row, column]).float()
    before["valid"][:, :, 50:] = 0
    for seed in range(5):
        after = augment(before, only(*names), seeded(seed))
        # Channels say where each pixel comes from, but for those blended with the 0 beyond the edge, and ties.
        source = after["channels"]
        inner = ((source > 1) & (source < size - 3)).all(0) & ((source.frac() - 0.5).abs() > 1e-3).all(0)
        inner = eroded(inner, 2)
        rows, columns = source[:, inner].round().long()
        assert inner.sum() > 1000
        torch.testing.assert_close(after["target"][0][inner], before["target"][0, rows, columns], rtol=0, atol=0)
        torch.testing.assert_close(after["valid"][0][inner], before["valid"][0, rows, columns], rtol=0, atol=0)


def test_what_comes_from_outside_is_nothing_and_not_valid():
    before = {name: torch.ones(count, 20, 20) for name, count in (("channels", 2), ("target", 1), ("valid", 1))}
    options = only("affine_transform", scale=(1.0, 1.0), turn=0.0, shift=0.25)
    shares = []
    for seed in range(20):
        after = augment(before, options, seeded(seed))
        outside = after["valid"] == 0
        assert set(after["valid"].unique().tolist()) <= {0, 1}
        assert torch.equal(after["target"], after["valid"])
        # A bilinear value is 0 where all its neighbours are outside: one pixel further out at most.
        assert (after["channels"][:, ~outside[0]] > 0.24).all()
        assert (after["channels"][:, eroded(outside[0], 1)] == 0).all()
        shares.append(outside.float().mean().item())
    assert 0.1 < np.mean(shares) < 0.4


def test_binary_channels_are_binary_again_where_asked_for():
    before = patch(48)
    before["channels"][:2] = (before["channels"][:2] > 0.5).float()
    options = {"elastic_transform": 1.0, "affine_transform": 1.0}
    soft = augment(before, only(**options), seeded())
    hard = augment(before, only(**options, rethreshold=True), seeded())
    assert torch.equal(hard["channels"][:2], (soft["channels"][:2] >= 0.5).float())
    assert torch.equal(hard["channels"][2], soft["channels"][2]) and len(soft["channels"][2].unique()) > 1000
    assert len(soft["channels"][:2].unique()) > 1000
    none = augment(before, only(**options, rethreshold=True, binary_channels=0), seeded())
    assert same(none, soft)


def test_holes_are_rectangles_of_the_sizes_asked_for_within_the_patch():
    options, random = Augmentation(holes=(1, 1)), seeded()
    sides, corners = [], []
    for _ in range(600):
        hole = drop_holes(torch.ones(2, 64, 64), options, random) == 0
        assert torch.equal(hole[0], hole[1])
        rows, columns = (torch.nonzero(hole[0].any(axis)).flatten() for axis in (1, 0))
        assert hole[0].sum() == len(rows) * len(columns), "a full rectangle"
        sides += [len(rows), len(columns)]
        corners += [rows[0].item(), rows[-1].item(), columns[0].item(), columns[-1].item()]
    assert (min(sides), max(sides)) == (10, 40) and len(set(sides)) == 31
    assert (min(corners), max(corners)) == (0, 63)


def test_there_are_up_to_five_holes_in_the_channels_alone():
    options, random = only("coarse_dropout", hole_size=(1, 1)), seeded()
    before = patch(64)
    before["channels"] += 1
    counts = []
    for _ in range(500):
        after = augment(before, options, random)
        assert torch.equal(after["target"], before["target"]) and torch.equal(after["valid"], before["valid"])
        counts.append(int((after["channels"][0] == 0).sum()))
    assert set(counts) == {1, 2, 3, 4, 5} and min(counts.count(number) for number in range(1, 6)) > 60


def test_a_hole_is_no_larger_than_the_patch():
    assert drop_holes(torch.ones(2, 8, 8), Augmentation(hole_size=(10, 40)), seeded()).sum() == 0


SHARES = {
    "horizontal_flip": 0.5,
    "vertical_flip": 0.5,
    "rotation": 0.5 * 3 / 4,
    "elastic_transform": 0.25,
    "affine_transform": 0.5,
    "coarse_dropout": 0.2,
}
"""How often a patch is another after one change with its default probability; a quarter of the turns are by 0."""


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_happens_as_often_as_it_should(name):
    options = Augmentation(**{**NEVER, name: getattr(Augmentation(), name)}, hole_size=(2, 3))
    before, random = patch(16), seeded()
    count = sum(not same(augment(before, options, random), before) for _ in range(2000))
    # Four standard deviations of a binomial of 2000 draws are at most 90.
    assert abs(count - 2000 * SHARES[name]) < 90


def test_affine_changes_stay_within_their_limits():
    # Places of the centre and of one pixel to the right and below tell the map back; its inverse is the change.
    places = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])[:, :, None]
    random, lengths, turns, shifts = seeded(), [], [], []
    for _ in range(500):
        (origin,) = draw_origins(100, only("affine_transform"), random)
        centre, right, below = origin(places)[:, :, 0].double().numpy().T
        forward = np.linalg.inv(np.stack([right - centre, below - centre], axis=1))
        lengths += np.linalg.norm(forward, axis=0).tolist()
        turns.append(math.degrees(math.atan2(forward[1, 0], forward[0, 0])))
        shifts += (-forward @ centre).tolist()
    for values, limit, centre in ((lengths, 0.1, 1), (turns, 15, 0), (shifts, 10, 0)):
        far = np.abs(np.array(values) - centre)
        assert 0.97 * limit < far.max() < 1.001 * limit and abs(np.mean(values) - centre) < 0.1 * limit


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_what_is_no_probability_is_refused(name, value):
    refused(lambda: Augmentation(**{name: value}), f"augmentation.{name} = {value}", "from 0 to 1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("elastic_sigma", 0.0),
        ("elastic_scale", -1.0),
        ("elastic_jitter", math.inf),
        ("shift", -0.1),
        ("turn", math.nan),
        ("binary_channels", -1),
        ("scale", (0.0, 1.0)),
        ("scale", (1.1, 0.9)),
        ("holes", (3, 2)),
        ("holes", (-1, 2)),
        ("hole_size", (0, 4)),
    ],
)
def test_parameters_that_make_no_sense_are_refused(name, value):
    refused(lambda: Augmentation(**{name: value}), f"augmentation.{name} = {value!r}", "give")


@pytest.mark.parametrize(("name", "value"), [("holes", (1, 10**20)), ("hole_size", (1, 10**20)), ("scale", (1, 1e9))])
def test_amounts_beyond_all_use_are_refused(name, value):
    refused(lambda: Augmentation(**{name: value}), f"augmentation.{name} = {value!r}", "up to 1000")
