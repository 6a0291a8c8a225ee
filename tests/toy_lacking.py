"""The toy task with a part that one client has no data for, and with statistics in two passes."""

from typing import Any, ClassVar

import torch
from torch import nn

from tests.toy_task import Points, Scaler
from training.statistics import Statistics, Values
from training.task import Batch


class Lacking(Points):
    passes: ClassVar[int] = 2

    lacking: str = "cyd"

    def absent(self, client: str) -> tuple[str, ...]:
        return ("extra.*",) if client == self.lacking else ()

    def statistics(self, client: str) -> Statistics:
        x = self.raw(client, "train")["x"].double()
        return Statistics(arrays={"lowest": Values(rule="min", values=x.amin(0).tolist())})

    def further_statistics(self, client: str, known: Statistics) -> Statistics:
        x = self.raw(client, "train")["x"].double() - torch.from_numpy(known.arrays["lowest"].array())
        sums = {"n": [float(len(x))], "sum": x.sum(0).tolist(), "squares": x.square().sum(0).tolist()}
        return Statistics(arrays={key: Values(rule="sum", values=value) for key, value in sums.items()})

    def fit(self, own: Statistics, everyone: Statistics) -> Scaler:
        above = super().fit(own, everyone)
        mean = own.arrays["lowest"].array() + above.mean
        return Scaler(mean=mean.tolist(), deviation=above.deviation)

    def client_data(self, client: str, fitted: Any) -> Any:
        data = super().client_data(client, fitted)
        for split in (data.train, data.val, data.test):
            split.batch["has"] = torch.full((len(split), 1), float(client != self.lacking))
        return data

    def network(self, fitted: Any) -> nn.Module:
        network = super().network(fitted)
        network["extra"] = nn.Linear(4, 3)
        return network

    def forward(self, network: Any, batch: Batch) -> Batch:
        logits = super().forward(network, batch)["logits"]
        has = batch.get("has", torch.ones(len(logits), 1))
        return {"logits": logits + has * network["extra"](batch["x"]) if has.any() else logits}


TASK = Lacking
