import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from reports.bootstrap import difference_interval, mean_interval, recomputed
from reports.comparison import compare
from reports.honesty import warnings
from reports.kinds import Pixels
from reports.outcome_plots import BACKGROUND, PIXELS, coloured
from reports.outcomes import shown_images, shown_models
from reports.report import write_report
from reports.run_folder import RunRecord
from reports.tables import headline_table
from reports.thresholds import setting_sweep, threshold_table
from tests.image_folders import write_images
from tests.run_folders import CLIENTS, compared, edit, write_comparison

pytestmark = pytest.mark.usefixtures("coarse_pictures")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_comparison(tmp_path_factory.mktemp("images"), (0,), write_images)


# Recomputed from counts


@pytest.mark.parametrize("metric", ["f1", "iou", "precision", "recall"])
def test_metrics_of_counts_are_those_of_the_pixels_drawn(metric: str) -> None:
    draw = np.random.default_rng(0)
    guess, true = draw.random((6, 20)) < 0.4, draw.random((6, 20)) < 0.5
    counts = [(guess & true).sum(1), (guess & ~true).sum(1), (~guess & true).sum(1)]
    weights = draw.multinomial(6, np.full(6, 1 / 6), 5)
    by_hand = {"f1": f1_score, "iou": jaccard_score, "precision": precision_score, "recall": recall_score}[metric]
    drawn = [np.arange(6).repeat(one) for one in weights]
    expected = [by_hand(true[one].ravel(), guess[one].ravel()) for one in drawn]
    assert Pixels(None, *counts).measure(metric, weights.astype(float)) == pytest.approx(expected)


def test_means_over_images_take_each_image_as_often_as_it_is_drawn() -> None:
    pixels = Pixels(None, np.array([3, 0, 0]), np.array([1, 2, 0]), np.array([0, 0, 0]))
    weights = np.array([[1.0, 1, 1], [3, 0, 0], [0, 1, 2]])
    assert pixels.measure("image_f1", weights) == pytest.approx([(6 / 7 + 0 + 1) / 3, 6 / 7, 2 / 3], abs=1e-5)
    assert pixels.measure("image_iou", weights) == pytest.approx([(3 / 4 + 0 + 1) / 3, 3 / 4, 2 / 3], abs=1e-5)


def test_nothing_to_divide_by_is_undefined() -> None:
    nothing = Pixels(None, *(np.zeros(3, int),) * 3)
    assert all(math.isnan(recomputed(nothing, metric)) for metric in ("f1", "iou", "precision", "recall"))
    assert recomputed(nothing, "image_f1") == 1


def test_images_of_an_animal_are_drawn_together() -> None:
    """Two images of an animal that are alike tell no more than one."""
    hits = np.array([9, 1, 5, 7, 3, 8, 2, 6]).repeat(4)
    counts = (hits, 10 - hits, 10 - hits)
    animals = np.arange(8).repeat(4).astype(str)
    widths = []
    for units in (None, animals):
        interval = mean_interval([Pixels(None, *counts, units_N=units)], "f1")
        assert interval is not None
        widths.append(interval.high - interval.low)
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.2)


def test_gains_are_paired_by_image_and_need_the_same_foreground() -> None:
    names, order = np.array([f"i{at}" for at in range(8)]), np.array([3, 1, 0, 2, 7, 6, 5, 4])
    tp, fp, fn = np.arange(1, 9), np.full(8, 2), np.arange(8, 0, -1)
    one, same = Pixels(names, tp, fp, fn), Pixels(names[order], tp[order], fp[order], fn[order])
    interval = difference_interval([one], [same], "iou")
    assert interval is not None
    assert (interval.low, interval.high) == (0, 0)
    assert difference_interval([one], [Pixels(names, tp, fp, fn + 1)], "iou") is None


def test_every_score_that_follows_from_the_counts_has_an_interval(images: list[Path]) -> None:
    comparison = compared(images)
    line = comparison.line("federated", "held_out")
    assert line is not None
    assert set(line.intervals) == {"f1", "iou", "precision", "recall", "image_f1", "image_iou"}
    for metric, interval in line.intervals.items():
        assert interval.low < line.scores[metric].mean < interval.high
        assert interval.over == "biological units"
    assert headline_table(comparison).columns[2:] == ["F1", "IoU", "precision", "recall", "loss", "samples"]


# Honesty


def test_reported_scores_are_those_of_the_counts_and_counts_those_of_the_pixels(images: list[Path]) -> None:
    assert warnings([RunRecord.read(folder) for folder in images]) == []


@pytest.mark.parametrize("data", ["bob", "pooled"])
def test_scores_that_do_not_follow_from_the_counts_are_a_warning(tmp_path: Path, data: str) -> None:
    run = write_images(tmp_path / "run", "federated")
    rows = json.loads((run / "eval_summary.json").read_text())["rows"]
    next(row for row in rows if row["data"] == data)["metrics"]["recall"] += 1e-5
    edit(run / "eval_summary.json", rows=rows)
    assert warnings([RunRecord.read(run)]) == [
        f"federated, seed 0: stored predictions give other results than reported: federated on {data}."
    ]


def test_counts_that_are_not_those_of_the_pixels_are_a_warning(tmp_path: Path) -> None:
    run = write_images(tmp_path / "run", "federated")
    path = run / "predictions" / "federated__ada.npz"
    stored = dict(np.load(path))
    at = stored["size"][:2].prod(1).sum() + 3 * 8 + 3
    stored["outcome"][at] = 0 if stored["outcome"][at] == 3 else 3
    np.savez(path, **stored)
    assert warnings([RunRecord.read(run)]) == [
        "federated, seed 0: the stored counts tp, fp and fn are not those of the stored pixels: federated on ada."
    ]


# Thresholds


def test_the_best_threshold_of_validation_is_shown_beside_the_one_of_hindsight(tmp_path: Path) -> None:
    run = write_images(tmp_path / "run", "federated")
    steps = json.loads((run / "history.json").read_text())["steps"]
    for step, best in zip(steps, (0.3, 0.7), strict=True):
        step["val"]["pooled"]["metrics"] = {**step["val"]["pooled"]["metrics"], "best_threshold": best}
    edit(run / "history.json", steps=steps)
    record = RunRecord.read(run)
    comparison = compare([record])
    table = threshold_table(comparison)
    texts = [cell.text for cell in table.rows[0]]
    f1_at = record.arrays("federated", "held_out")["f1_at"]
    assert record.manifest["selected"] == {"federated": 2}
    assert texts[1:3] == ["0.5000", f"{record.value('federated', 'held_out', 'f1'):.4f}"]
    assert texts[3:5] == ["0.7000", f"{f1_at[6]:.4f}"]
    assert texts[5:] == [f"{0.1 + 0.1 * f1_at.argmax():.4f}", f"{f1_at.max():.4f}"]
    assert "optimistic" in table.note


def test_without_a_history_of_thresholds_validation_has_none(images: list[Path]) -> None:
    table = threshold_table(compared(images))
    assert [[cell.text for cell in row[3:5]] for row in table.rows] == [["\N{EN DASH}"] * 2] * 3


def test_local_sweeps_are_averaged_on_the_held_out_set(images: list[Path]) -> None:
    comparison = compared(images)
    local = next(record for record in comparison.records if record.setting == "local")
    mean = setting_sweep(comparison, "local")
    assert mean is not None
    each = [local.arrays(client, "held_out")["precision_at"] for client in CLIENTS]
    assert mean.precision == pytest.approx(np.mean(each, axis=0))


# Images


def stored_images(stored: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Cut what is stored of pixels by hand, row by row."""
    pixels = iter(stored["outcome"].tolist())
    return [np.array([[next(pixels) for _ in range(width)] for _ in range(height)]) for height, width in stored["size"]]


def test_the_best_the_median_and_the_worst_image_of_each_setting_are_shown(images: list[Path]) -> None:
    models = shown_models(compared(images))
    shown = shown_images(models, "held_out")
    assert sum(len(image.why) for image in shown) == 3 * 3
    assert [sum(image.f1) for image in shown] == sorted((sum(image.f1) for image in shown), reverse=True)
    for at, model in enumerate(models):
        images_of = stored_images(model.record.predictions(model.name, "held_out"))
        right, wrong, missed = (np.array([(one == code).sum() for one in images_of]) for code in (3, 1, 2))
        something = right + wrong + missed > 0
        f1 = (2 * right / np.maximum(1, 2 * right + wrong + missed))[something]
        scores = {word: image.f1[at] for image in shown for word in image.why}
        assert scores[f"best of {model.setting}"] == pytest.approx(f1.max(), abs=1e-5)
        assert scores[f"worst of {model.setting}"] == pytest.approx(f1.min(), abs=1e-5)
        assert scores[f"median of {model.setting}"] == pytest.approx(sorted(f1)[::-1][len(f1) // 2], abs=1e-5)


def test_a_local_model_in_the_middle_is_shown(images: list[Path]) -> None:
    model = shown_models(compared(images))[-1]
    values = {client: model.record.value(client, "held_out", "f1") for client in CLIENTS}
    assert model.name == sorted(values, key=lambda client: values[client])[1]


def test_images_are_shown_at_their_own_sizes(images: list[Path]) -> None:
    comparison = compared(images[:1])
    models = shown_models(comparison)
    for image in shown_images(models, "held_out"):
        assert image.outcomes[0].shape == ((8, 4) if image.name == "held_out-0" else (8, 8))


def test_images_of_all_clients_are_read_from_their_own_files(tmp_path: Path) -> None:
    run = write_images(tmp_path / "run", "federated")
    rows = [row for row in RunRecord.read(run).rows if row["data"] != "held_out"]
    edit(run / "eval_summary.json", rows=rows)
    comparison = compared([run])
    assert comparison.main_data == "pooled"
    for image in shown_images(shown_models(comparison), "pooled"):
        client, sample = image.name.split("/")
        stored = RunRecord.read(run).predictions("federated", client)
        at = stored["sample"].tolist().index(sample)
        assert np.array_equal(image.outcomes[0], stored_images(stored)[at])


def test_colours_differ_in_brightness_for_every_reader() -> None:
    outcome = np.array([[0, 1, 2, 3]], np.uint8)
    assert coloured(outcome)[0, 1].tolist() == list(to_rgb(PIXELS["fp"]))
    brightness = sorted(float(np.dot(to_rgb(one), [0.2126, 0.7152, 0.0722])) for one in (*PIXELS.values(), BACKGROUND))
    assert min(np.diff(brightness)) > 0.15


# The page and the files beside it


def test_a_report_on_images_is_complete(images: list[Path], tmp_path: Path) -> None:
    page = write_report(images, tmp_path).read_text()
    assert "<h2>Images</h2>" in page and "<h2>Thresholds</h2>" in page and "optimistic" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)|https?://|<script""", page)
    stems = {one.stem for one in (tmp_path / "plots").iterdir()}
    assert {"precision_recall", "f1_by_threshold", "images"} <= stems
    assert page.count("data:image/png;base64,") == len(stems)
    thresholds = pd.read_csv(tmp_path / "threshold_metrics.csv")
    assert thresholds.columns.tolist()[4:] == ["threshold", "precision", "recall", "f1"]
    assert len(thresholds) == 9 * (2 * 5 + 3 * 4 + 1)
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    assert predictions.columns.tolist()[4:] == ["sample", "unit", "tp", "fp", "fn", "f1", "iou"]
    shown = predictions[(predictions.setting == "centralized") & (predictions.data == "held_out")]
    reported = RunRecord.read(images[0]).value("centralized", "held_out", "image_f1")
    assert shown.f1.mean() == pytest.approx(reported, abs=1e-5)
    assert len(predictions) == 3 * 30 + 5 * 20


def test_a_run_without_stored_pixels_has_a_report_without_pictures_of_them(tmp_path: Path) -> None:
    run = write_images(tmp_path / "run", "local")
    for path in (run / "predictions").iterdir():
        np.savez(path, **{key: value for key, value in np.load(path).items() if key != "outcome"})
    page = write_report([run], run).read_text()
    assert "<h2>Images</h2>" not in page and "<h2>Thresholds</h2>" in page
