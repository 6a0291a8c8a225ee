"""Scores of binary segmentation against recorded values, scikit-learn, scipy and numbers worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score
from torch import Tensor
from torchmetrics import MetricCollection

from core.errors import UserError
from training.metrics import Metrics
from training.segmentation import NEIGHBOURS, Counts, SegmentationScores, counts_from_masks, object_counts
from training.task import Loss
from training.thresholds import THRESHOLDS, ThresholdSweep, thresholds_exceeded

RECORDED = np.load(Path(__file__).parent / "fixtures" / "attention_unet" / "losses_metrics.npz")
CASES = RECORDED["cases"].tolist()
MICRO = {"iou": jaccard_score, "f1": f1_score, "precision": precision_score, "recall": recall_score}


def case(name: str) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(RECORDED[f"{name}__pred"]), torch.from_numpy(RECORDED[f"{name}__target"])


def images(*rows: str) -> Tensor:
    """Make one image [1, 1, H, W] of a drawing; # is 1, a digit d is d / 10."""
    values = {"#": 1.0, ".": 0.0}
    pixels = [[values[mark] if mark in values else int(mark) / 10 for mark in row] for row in rows]
    return torch.tensor(pixels)[None, None]


def scores(probability: Tensor, target: Tensor, valid: Tensor | None = None, **settings: float) -> dict[str, float]:
    metric = SegmentationScores(**settings)
    metric.update(probability, target, valid)
    return {name: float(value) for name, value in metric.compute().items()}


def blobs(seed: int, count: int = 6, side: int = 48) -> tuple[Tensor, Tensor]:
    """Give smooth probabilities and a target that resembles what exceeds 0.5 of them."""
    random = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(random.normal(size=(count, 1, side, side)), (0, 0, 3, 3))
    noise = ndimage.gaussian_filter(random.normal(size=field.shape), (0, 0, 2, 2))
    probability = 1 / (1 + np.exp(-60 * (field - 0.05)))
    return torch.from_numpy(probability).float(), torch.from_numpy(field + 0.5 * noise > 0.05).float()


# Scores at one threshold


@pytest.mark.parametrize("threshold", [0.5, 0.3])
@pytest.mark.parametrize("name", CASES)
def test_recorded_means_over_images(name: str, threshold: float) -> None:
    found = scores(*case(name), threshold=threshold)
    for score in ("iou", "f1"):
        expected = float(RECORDED[f"{name}__{score}_t{threshold}"])
        assert found[f"image_{score}"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("threshold", [0.5, 0.3])
@pytest.mark.parametrize("name", CASES)
def test_recorded_older_variant_from_counts_of_each_image(name: str, threshold: float) -> None:
    """It smoothed precision and recall of an image, too, and made F1 of them with 1e-6 in the denominator."""
    probability, target = (values.numpy() for values in case(name))
    of_images = [counts_from_masks(*pair) for pair in zip(probability > np.float32(threshold), target, strict=True)]
    precision = np.array([(one.tp + 1e-6) / (one.tp + one.fp + 1e-6) for one in of_images])
    recall = np.array([(one.tp + 1e-6) / (one.tp + one.fn + 1e-6) for one in of_images])
    found = {
        "iou": np.array([one.image_iou for one in of_images]),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall + 1e-6),
    }
    for score, values in found.items():
        assert values.mean() == pytest.approx(float(RECORDED[f"{name}__old_{score}_t{threshold}"]), abs=1e-6)


def test_pixels_are_scored_as_scikit_learn_does() -> None:
    probability, target = blobs(0)
    found = scores(probability, target, threshold=0.6)
    for name, function in MICRO.items():
        expected = function(target.flatten().numpy() > 0, probability.flatten().numpy() > np.float32(0.6))
        assert found[name] == pytest.approx(expected, abs=1e-12)


def test_a_drawing_by_hand() -> None:
    probability = images("99.5", "99.6", "....")
    target = images("##..", "#...", "...#")
    found = scores(probability, target)
    assert found["iou"] == 3 / 6 and found["precision"] == 3 / 5 and found["recall"] == 3 / 4 and found["f1"] == 6 / 9
    assert found["image_iou"] == pytest.approx(3 / 6, abs=1e-6) and found["empty_targets"] == 0
    # The block of four matches (3 of 4 pixels), the single pixels are apart by one row.
    assert (found["object_precision"], found["object_recall"], found["object_f1"]) == (0.5, 0.5, 0.5)


def test_a_probability_has_to_exceed_the_threshold() -> None:
    target = images("##")
    assert scores(images("55"), target)["recall"] == 0
    assert scores(torch.full((1, 1, 1, 2), 0.3), target, threshold=0.3)["recall"] == 0
    assert scores(torch.full((1, 1, 1, 2), 0.3), target, threshold=0.2999)["recall"] == 1


def test_scores_where_there_is_nothing() -> None:
    nothing, one = images("...."), images(".#..")
    both = scores(nothing, nothing)
    assert all(np.isnan(both[name]) for name in (*MICRO, "object_precision", "object_recall", "object_f1"))
    assert both["image_iou"] == both["image_f1"] == both["empty_targets"] == 1
    missed = scores(nothing, one)
    assert np.isnan([missed["precision"], missed["object_precision"]]).all()
    assert missed["recall"] == missed["iou"] == missed["f1"] == missed["object_recall"] == missed["object_f1"] == 0
    invented = scores(one, nothing)
    assert np.isnan([invented["recall"], invented["object_recall"]]).all() and invented["precision"] == 0
    assert invented["image_iou"] == pytest.approx(1e-6, rel=1e-3) and invented["empty_targets"] == 1
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert all(np.isnan(float(value)) for value in SegmentationScores().compute().values())


def test_share_of_images_without_foreground() -> None:
    target = torch.zeros(4, 1, 3, 3)
    target[1, 0, 0, 0] = 1
    assert scores(torch.zeros(4, 1, 3, 3), target)["empty_targets"] == 0.75


def test_predictions_that_are_no_numbers_are_background() -> None:
    probability = torch.full((1, 1, 2, 2), torch.nan)
    assert scores(probability, torch.ones(1, 1, 2, 2))["recall"] == 0
    assert thresholds_exceeded(np.array([np.nan, np.inf, -np.inf, -0.1, 1.5], np.float32)).tolist() == [
        0,
        100,
        0,
        0,
        100,
    ]


@pytest.mark.parametrize("metric", [SegmentationScores, ThresholdSweep])
def test_pixels_outside_the_mask_count_nowhere(metric: type[SegmentationScores | ThresholdSweep]) -> None:
    probability, target = blobs(1)
    valid = torch.zeros_like(target)
    valid[:, :, 5:40, 3:30] = 1
    masked, cut = metric(), metric()
    masked.update(probability, target, valid.bool())
    cut.update(probability[:, :, 5:40, 3:30], target[:, :, 5:40, 3:30])
    for name, value in cut.compute().items():
        torch.testing.assert_close(masked.compute()[name], value, rtol=0, atol=0, equal_nan=True)


# Objects


def best_matching(predicted: np.ndarray, target: np.ndarray) -> int:
    """Match parts one to one, as many as possible with an IoU of at least 0.5."""
    (ours, count), (theirs, others) = (ndimage.label(mask, NEIGHBOURS) for mask in (predicted, target))
    iou = np.zeros((count, others))
    for one in range(count):
        for other in range(others):
            first, second = ours == one + 1, theirs == other + 1
            iou[one, other] = (first & second).sum() / (first | second).sum()
    rows, columns = linear_sum_assignment(iou >= 0.5, maximize=True)
    return int((iou[rows, columns] >= 0.5).sum())


@pytest.mark.parametrize("seed", range(4))
def test_as_many_objects_match_as_one_to_one_assignment_finds(seed: int) -> None:
    probability, target = blobs(seed, count=3)
    matches = 0
    for predicted, truth in zip(probability[:, 0].numpy() > 0.5, target[:, 0].numpy() > 0, strict=True):
        found = object_counts(predicted, truth)
        assert found.tp == best_matching(predicted, truth)
        matches += found.tp
        assert found.tp + found.fp == ndimage.label(predicted, NEIGHBOURS)[1]
        assert found.tp + found.fn == ndimage.label(truth, NEIGHBOURS)[1]
    assert matches > 0


def test_small_random_masks_have_no_object_in_two_matches() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        predicted, truth = random.random((2, 5, 5)) > 0.6
        assert object_counts(predicted, truth).tp == best_matching(predicted, truth)


@pytest.mark.parametrize(
    ("predicted", "target", "expected"),
    [
        (("##..",), ("#...",), Counts(1, 0, 0)),
        (("###.",), ("#...",), Counts(0, 1, 1)),
        (("####",), ("#..#",), Counts(0, 1, 2)),
        (("#..", ".#.", "..."), ("#..", ".#.", "..."), Counts(1, 0, 0)),
        (("##.##",), ("#####",), Counts(0, 2, 1)),
        (("#..#",), ("....",), Counts(0, 2, 0)),
    ],
)
def test_objects_by_hand(predicted: tuple[str, ...], target: tuple[str, ...], expected: Counts) -> None:
    assert object_counts(images(*predicted)[0, 0].numpy() > 0, images(*target)[0, 0].numpy() > 0) == expected


def test_objects_may_be_tidied_and_pixels_are_not() -> None:
    metric = SegmentationScores(tidy=lambda mask: ndimage.binary_opening(mask, np.ones((2, 2))))
    metric.update(images("##...", "##..#"), images("##...", "##..."))
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found["object_precision"] == found["object_recall"] == 1 and found["precision"] == 4 / 5


# All thresholds


def sweep(probability: Tensor, target: Tensor) -> dict[str, np.ndarray]:
    metric = ThresholdSweep()
    metric.update(probability, target)
    return {name: value.numpy() for name, value in metric.compute().items()}


def test_recorded_sweep() -> None:
    shape = (1, 1, 40, 100)
    found = sweep(*(torch.from_numpy(RECORDED[f"sweep_{name}"]).reshape(shape) for name in ("pred", "target")))
    np.testing.assert_array_equal(found["threshold"], RECORDED["sweep_threshold"])
    for name in ("precision", "recall", "f1"):
        np.testing.assert_allclose(found[f"{name}_at"], RECORDED[f"sweep_{name}"], rtol=0, atol=1e-6)
    assert found["best_threshold"] == RECORDED["sweep_best_threshold"]
    assert found["best_f1"] == found["f1_at"][int(RECORDED["sweep_best_index"])] == found["f1_at"].max()


def test_places_between_thresholds_are_exact() -> None:
    """Probabilities at every threshold, just beside it, at every edge of a cell and beside that."""
    exact = np.concatenate([THRESHOLDS.astype(np.float32), np.arange(129, dtype=np.float32) / 128])
    beside = [np.nextafter(exact, np.float32(end)) for end in (0, 1)]
    probability = np.concatenate([exact, *beside, np.random.default_rng(0).random(5000, dtype=np.float32)])
    expected = (probability[:, None] > THRESHOLDS.astype(np.float32)).sum(axis=1)
    np.testing.assert_array_equal(thresholds_exceeded(probability), expected)


def test_sweep_is_the_score_at_each_threshold() -> None:
    probability, target = blobs(2)
    found = sweep(probability, target)
    for place in (0, 37, 99):
        alone = scores(probability, target, threshold=THRESHOLDS[place])
        assert found["precision_at"][place] == pytest.approx(alone["precision"], abs=1e-6)
        assert found["recall_at"][place] == pytest.approx(alone["recall"], abs=1e-6)
        assert found["f1_at"][place] == pytest.approx(alone["f1"], abs=2e-6)


def test_first_of_equally_good_thresholds() -> None:
    found = sweep(images("94", "9."), images("#.", "#."))
    assert found["best_threshold"] == THRESHOLDS[np.argmax(THRESHOLDS >= 0.4)]
    assert found["best_f1"] == pytest.approx(1, abs=1e-6)


def test_no_threshold_is_best_without_foreground() -> None:
    found = sweep(images("94"), images(".."))
    assert np.isnan([found["best_threshold"], found["best_f1"]]).all()
    assert found["precision_at"][0] == pytest.approx(5e-7, rel=1e-6) and found["recall_at"][0] == 1


# Clients


def wrapped(probability: Tensor, target: Tensor) -> Metrics:
    collection = {"scores": SegmentationScores(), "sweep": ThresholdSweep()}
    metrics = Metrics(MetricCollection(dict(collection), compute_groups=False))
    if len(target):
        metrics.collection.update(probability, target)
        metrics.add_loss(Loss(torch.tensor(1.0), len(target), {}))
    return metrics


def test_merged_clients_score_as_the_pool() -> None:
    probability, target = blobs(3)
    target[4:] = 0
    merged = wrapped(probability[:0], target[:0])
    for part in (slice(0, 1), slice(1, 1), slice(1, 6)):
        merged.merge(wrapped(probability[part], target[part]).states())
    found, pool = merged.compute(), wrapped(probability, target).compute()
    assert found.support == 6 and pool.values["empty_targets"] == 2 / 6
    assert found.values == pytest.approx(pool.values, abs=1e-12)
    assert found.arrays == pool.arrays
    means = np.mean([scores(probability[part], target[part])["f1"] for part in (slice(0, 1), slice(1, 6))])
    assert abs(found.values["f1"] - means) > 1e-3


def test_states_once_given_do_not_change() -> None:
    probability, target = blobs(4)
    metrics = wrapped(probability, target)
    before = metrics.states()
    kept = {name: value.copy() for name, value in before.items()}
    metrics.collection.update(probability, target)
    for name, value in before.items():
        np.testing.assert_array_equal(value, kept[name])


def test_shares_and_thresholds_are_reported_but_not_selected_on() -> None:
    metrics = wrapped(*blobs(5))
    computed = metrics.compute()
    counts = {"empty_targets", "best_threshold"}
    assert {name for name in metrics.directions() if name != "loss"} == computed.values.keys() - counts - {"loss"}
    assert all(metrics.higher_is_better(name) for name in ("f1", "object_f1", "best_f1"))
    assert {name: len(values) for name, values in computed.arrays.items()} == dict.fromkeys(
        ["threshold", "precision_at", "recall_at", "f1_at"], 100
    )
    for name in counts:
        with pytest.raises(UserError, match="unknown metric"):
            metrics.higher_is_better(name)


# Masks


def test_counts_recomputed_from_stored_masks() -> None:
    probability, target = blobs(6)
    found = scores(probability, target)
    counts = counts_from_masks((probability > 0.5).numpy().astype(np.uint8), target.numpy())
    assert {name: getattr(counts, name) for name in MICRO} == pytest.approx({name: found[name] for name in MICRO})
    valid = np.zeros(target.shape)
    valid[:, :, ::2] = 1
    part = counts_from_masks(probability.numpy() > 0.5, target.numpy(), valid)
    assert part == counts_from_masks(probability.numpy()[:, :, ::2] > 0.5, target.numpy()[:, :, ::2])


def test_shapes_that_differ_are_refused() -> None:
    image = torch.zeros(2, 1, 4, 4)
    for metric in (SegmentationScores(), ThresholdSweep()):
        for others in ((image[:1], None), (image, image[..., :3])):
            with pytest.raises(ValueError, match="shapes"):
                metric.update(image, *others)
        with pytest.raises(ValueError, match="shapes"):
            metric.update(image[:, 0], image[:, 0])
    with pytest.raises(ValueError, match="shapes"):
        counts_from_masks(np.zeros((1, 4)), np.zeros((4, 4)))
