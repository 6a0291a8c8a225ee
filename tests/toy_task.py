"""A small task outside `tasks/`, reached by its dotted path: labelled points around class centres, one scaler."""

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score

from core.errors import UserError
from core.randomness import torch_generator
from training.loading import InMemory
from training.statistics import Statistics, Values
from training.task import Batch, ClientData, Loss, Task

CLASSES = ["a", "b", "c"]
SIZES = {"train": 40, "val": 15, "test": 20}


class Scaler(BaseModel):
    mean: list[float]
    deviation: list[float]


class Points(Task):
    Fitted: ClassVar[type[BaseModel]] = Scaler
    primary: ClassVar[str] = "accuracy"

    names: tuple[str, ...] = ("ada", "bob", "cyd")
    hidden: int = 8
    dropout: float = 0.0
    batchnorm: bool = False
    personal_head: bool = False
    frozen_front: bool = False
    thaw_front: int = 0
    head_factor: float = 1.0
    kill_marker: Path | None = None
    failing: str = ""
    nan: str = ""
    missing_classes: bool = False

    def clients(self) -> list[str]:
        return sorted(self.names)

    def raw(self, client: str, split: str) -> Batch:
        count = SIZES.get(split, 30)
        draw = torch_generator(0, "points", client, split)
        classes = torch.randint(0, len(CLASSES), (count,), generator=draw)
        if self.missing_classes and client != "held_out":
            classes = (classes > 0).long() * ((1 + self.clients().index(client)) % len(CLASSES))
        centres = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0]])
        return {"x": centres[classes] + torch.randn(count, 4, generator=draw), "y": classes}

    def statistics(self, client: str) -> Statistics:
        if client == self.failing == "refused":
            raise UserError("points.csv: column x is missing; add it")
        x = self.raw(client, "train")["x"].double()
        sums = {"n": [float(len(x))], "sum": x.sum(0).tolist(), "squares": x.square().sum(0).tolist()}
        return Statistics(arrays={key: Values(rule="sum", values=value) for key, value in sums.items()})

    def fit(self, own: Statistics, everyone: Statistics) -> Scaler:
        n, total, squares = (own.arrays[key].array() for key in ("n", "sum", "squares"))
        return Scaler(mean=(total / n).tolist(), deviation=((squares / n - (total / n) ** 2) ** 0.5).tolist())

    def _open(self, client: str, split: str, fitted: Scaler) -> InMemory:
        batch = self.raw(client, split)
        x = (batch["x"].double() - torch.tensor(fitted.mean)) / torch.tensor(fitted.deviation)
        return InMemory({"x": x.float(), "y": batch["y"]})

    def client_data(self, client: str, fitted: Any) -> ClientData:
        if client == self.failing:
            raise RuntimeError("the disk of this client is broken")
        data = ClientData(*(self._open(client, split, fitted) for split in ("train", "val", "test")))
        if client == self.nan:
            data.train.batch["x"][0] = torch.nan
        return data

    def held_out(self, fitted: Any) -> InMemory:
        return self._open("held_out", "test", fitted)

    def identities(self, client: str) -> dict[str, dict[str, list[str]]]:
        return {split: {"point": [f"{client}-{split}-{n}" for n in range(count)]} for split, count in SIZES.items()}

    def data_digest(self, client: str) -> str:
        return f"points of {client}, missing {self.missing_classes}"

    def describe(self, client: str) -> dict[str, Any]:
        counts = self.raw(client, "train")["y"].bincount(minlength=len(CLASSES)).tolist()
        return {**SIZES, "labels": dict(zip(CLASSES, counts, strict=True))}

    def flip_labels(self, batch: Batch, fitted: Any) -> Batch:
        return {**batch, "y": len(CLASSES) - 1 - batch["y"]}

    def network(self, fitted: Any) -> nn.Module:
        norm = [nn.BatchNorm1d(self.hidden)] if self.batchnorm else []
        front = nn.Sequential(nn.Linear(4, self.hidden), *norm, nn.ReLU(), nn.Dropout(self.dropout))
        if self.frozen_front:
            front.requires_grad_(False)
        return nn.ModuleDict({"front": front, "head": nn.Linear(self.hidden, len(CLASSES))})

    def personal(self) -> tuple[str, ...]:
        return ("head.*",) if self.personal_head else ()

    def waiting(self, epoch: int) -> tuple[str, ...]:
        return ("front.*",) if epoch < self.thaw_front else ()

    def rate_factors(self) -> dict[str, float]:
        return {} if self.head_factor == 1 else {"head.*": self.head_factor}

    def encode(self, network: Any, batch: Batch) -> Batch | None:
        return {"hidden": network["front"](batch["x"]), "y": batch["y"]} if self.frozen_front else None

    def forward(self, network: Any, batch: Batch) -> Batch:
        hidden = batch["hidden"] if "hidden" in batch else network["front"](batch["x"])
        return {"logits": network["head"](hidden)}

    def loss(self, outputs: Batch, batch: Batch) -> Loss:
        if self.kill_marker and outputs["logits"].requires_grad and os.environ.get("RANK", "0") == "0":
            self._count_down(self.kill_marker)
        total: Tensor = cross_entropy(outputs["logits"], batch["y"])
        return Loss(total, len(batch["y"]), {})

    def _count_down(self, marker: Path) -> None:
        """Kill this process in the middle of an epoch; the file says after how many training batches, once only."""
        left = int(marker.read_text()) - 1
        marker.write_text(str(left))
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def metrics(self, fitted: Any) -> MetricCollection:
        count = len(CLASSES)
        metrics = {
            "accuracy": MulticlassAccuracy(count, average="micro"),
            "f1_macro": MulticlassF1Score(count, average="macro"),
            "confusion_matrix": MulticlassConfusionMatrix(count),
        }
        return MetricCollection(metrics, compute_groups=False)

    def observe(self, metrics: MetricCollection, outputs: Batch, batch: Batch) -> None:
        metrics.update(outputs["logits"], batch["y"])

    def predictions(self, outputs: Batch, batch: Batch) -> Batch:
        return {"target": batch["y"], "predicted": outputs["logits"].argmax(1), "scores": outputs["logits"].softmax(1)}

    def classes(self, fitted: Any) -> list[str]:
        return CLASSES


TASK = Points
