"""Which parameters train, which travel, and what identifies a set of weights."""

import contextlib
import fnmatch
import hashlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def trainable_state(network: nn.Module) -> dict[str, Tensor]:
    """Give what training changes: parameters with a gradient and the buffers of modules that train.

    Frozen parts are left out, so this is all that a checkpoint must hold and all that may travel.
    """
    state: dict[str, Tensor] = {
        name: parameter.detach() for name, parameter in network.named_parameters() if parameter.requires_grad
    }
    for prefix, module in network.named_modules():
        if is_frozen(module):
            continue
        for name, buffer in module.named_buffers(prefix=prefix, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                state[name] = buffer.detach()
    return state


def travelling_names(network: nn.Module, personal: Iterable[str]) -> list[str]:
    """Give the names that are exchanged: what trains, less what fits the patterns of what stays; sorted."""
    return sorted(name for name in trainable_state(network) if not fits(name, personal))


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a name fits one of the patterns (`head.*`)."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def batchnorm_buffers(network: nn.Module) -> list[str]:
    """Name the running statistics and counters of the BatchNorm layers that train."""
    return [
        f"{prefix}.{name}".removeprefix(".")
        for prefix, module in network.named_modules()
        if isinstance(module, _BatchNorm) and not is_frozen(module)
        for name, _ in module.named_buffers(recurse=False)
    ]


@contextlib.contextmanager
def held_back(network: nn.Module, patterns: tuple[str, ...]) -> Iterator[None]:
    """Keep the parameters that fit the patterns from training inside the block."""
    held = [
        parameter for name, parameter in network.named_parameters() if parameter.requires_grad and fits(name, patterns)
    ]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def load_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy tensors into a network by name, all of them or none.

    Raises:
        ValueError: A name is unknown or a shape differs.
    """
    own = network.state_dict(keep_vars=True)
    for name, value in state.items():
        if name not in own:
            raise ValueError(f"the network has no parameter {name}")
        if own[name].shape != value.shape:
            raise ValueError(f"{name}: shape {tuple(value.shape)} does not fit {tuple(own[name].shape)}")
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)


def is_frozen(module: nn.Module) -> bool:
    """Tell whether a module has parameters and none of them trains."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def training_mode(network: nn.Module, *, freeze_batchnorm: bool = False) -> None:
    """Put what trains into training mode and frozen modules into evaluation mode (no dropout, fixed statistics)."""
    network.train()
    for module in network.modules():
        if is_frozen(module) or (freeze_batchnorm and isinstance(module, _BatchNorm)):
            module.eval()


def count_parameters(network: nn.Module) -> dict[str, int]:
    """Count parameters: `trainable` and `total`."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return {"trainable": sum(size for size, trains in sizes if trains), "total": sum(size for size, _ in sizes)}


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """Give the SHA-256 over names, types, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{array.dtype}|{tuple(array.shape)}|".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
