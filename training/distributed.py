"""Several processes that train one network together, as torchrun starts them: gloo on CPUs, nccl on CUDA.

Each process works on its share of every batch; gradients are summed once per optimizer step, each weighted by its
samples, so that the result is that of one process with the whole batch. That sum is ours instead of torch's
DistributedDataParallel: shares may differ in size, and tasks call parts of the network, not its `forward`.
"""

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.errors import UserError

Value = TypeVar("Value")
PATIENCE = datetime.timedelta(days=1)
"""How long the others wait for the first process, which may index large data; when one dies, torchrun ends all."""


@dataclass(frozen=True)
class Group:
    """The processes of one training; alone, every exchange is the identity."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, items: list[Value]) -> list[Value]:
        """Give this process's part of a list: contiguous, sizes differ by one at most, the first get more."""
        each, more = divmod(len(items), self.size)
        start = self.rank * each + min(self.rank, more)
        return items[start : start + each + (self.rank < more)]

    def gather(self, value: Value) -> list[Value]:
        """Give the values of all processes to all, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @contextlib.contextmanager
    def first_leads(self) -> Iterator[None]:
        """Let the first process go through the block before the others, which find the files it made.

        Where it fails, the others end without a word of their own.
        """
        failed = self.size > 1 and not self.leads and self.gather(False)[0]
        if failed:
            raise SystemExit(2)
        try:
            yield
        except BaseException:
            if self.leads:
                self.gather(True)
            raise
        if self.leads:
            self.gather(False)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over the processes, in one exchange; what no process has a gradient for stays without."""
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        present = torch.tensor([p.grad is not None for p in trained], dtype=torch.float32, device=trained[0].device)
        flat = torch.cat([present, *(_gradient(parameter).reshape(-1) for parameter in trained)])
        dist.all_reduce(flat)
        summed = torch.split(flat[len(trained) :], [parameter.numel() for parameter in trained])
        for parameter, gradient, count in zip(trained, summed, flat[: len(trained)].tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if count else None


ALONE = Group()


@contextlib.contextmanager
def joined() -> Iterator[Group]:
    """Join the processes that torchrun started, or stay alone where it started none.

    Raises:
        UserError: The machine's accelerator cannot train in several processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    elif torch.backends.mps.is_available():
        raise UserError("torchrun: MPS cannot train in several processes; start the command without torchrun")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Group(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def refuse_processes(command: str) -> None:
    """Refuse torchrun for a command that starts its own processes.

    Raises:
        UserError: There are several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"torchrun: {command} starts its own processes; call it without torchrun")


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
