"""What travels in which round: only what trains, less what stays at its client."""

from collections.abc import Iterable

from torch import nn

from core.errors import UserError
from training.federation import Federation
from training.parameters import batchnorm_buffers, fits, held_back, trainable_state, travelling_names
from training.task import Task


class Travel:
    """The same on the server and at the clients, as a function of the round (counted from 1)."""

    def __init__(self, network: nn.Module, task: Task, options: Federation) -> None:
        """Sort out what stays.

        Args:
            network: As built; what ever trains has `requires_grad` on.
            task: Names personal parameters, and those that wait.
            options: The `federation` section.

        Raises:
            UserError: `federation.batchnorm` would have no effect.
        """
        self.network, self.task, self.epochs = network, task, options.local_epochs
        statistics = batchnorm_buffers(network)
        if options.batchnorm != "average" and not statistics:
            raise UserError(
                f"federation.batchnorm = {options.batchnorm}: the network trains no BatchNorm layer; leave it out"
            )
        self.staying = (*task.personal(), *(statistics if options.batchnorm != "average" else ()))
        self.names = travelling_names(network, self.staying)
        """All that travels in some round."""
        frozen = statistics if options.batchnorm == "freeze" else ()
        self.personal = set(trainable_state(network)) - {*self.names, *frozen}
        """What trains and stays at its client."""

    def trained(self, number: int, absent: tuple[str, ...] = ()) -> list[str]:
        """Name what trains in a round: this goes from a client to the server.

        Args:
            number: The round.
            absent: Patterns of what the client has no data for.
        """
        names = self._training(range((number - 1) * self.epochs, number * self.epochs))
        return [name for name in names if not fits(name, absent)]

    def moved(self, number: int) -> list[str]:
        """Name what has trained up to a round: this goes to the clients, which have all else from the start."""
        return self._training(range(number * self.epochs))

    def _training(self, epochs: Iterable[int]) -> list[str]:
        names: set[str] = set()
        for waiting in {self.task.waiting(epoch) for epoch in epochs}:
            with held_back(self.network, waiting):
                names.update(travelling_names(self.network, self.staying))
        return sorted(names)
