"""What a training costs: FLOPs and activations an image, and how the time of the entropies grows.

FLOPs and bytes are counted, not timed, and do not depend on the machine. Times are the CPU's of this one process, in
interleaved rounds; read their ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ibrobust.estimators import conditional_knn_entropy, knn_entropy
from ibrobust.estimators.batch_entropy import batch_knn_entropies
from ibrobust.estimators.soft_entropy import soft_entropies
from ibrobust.models import Encoder

WIDTHS = (16, 64)
BATCHES = (128, 256, 512, 1024, 2048)
DIMS = (64, 256, 1024)
CLASSES = 10
NEIGHBORS = 3
MEMORIES = (0, 1000, 5000, 20000)
TRAINING_BATCH, TRAINING_DIM = 125, 256

# Images of a counted pass.
FEW = 8


def step_flops(width: int, batch: int) -> tuple[int, int]:
    """Return the FLOPs of a forward and of a forward and backward pass; a multiply-add counts as two."""
    encoder = Encoder(width=width, latent_dim=256)
    images = torch.rand(batch, 3, 32, 32)
    with FlopCounterMode(display=False) as forward:
        latents = encoder(images)
    with FlopCounterMode(display=False) as backward:
        latents.sum().backward()
    return forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()


def saved_bytes(width: int, batch: int, *, bfloat16: bool) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, beside the parameters."""
    encoder = Encoder(width=width, latent_dim=256)
    parameters = {tensor.untyped_storage().data_ptr() for tensor in [*encoder.parameters(), *encoder.buffers()]}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)
    with autocast, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        latents = encoder(torch.rand(batch, 3, 32, 32))
    del latents
    return sum(seen.values())


def entropy_seconds(batch: int, dim: int) -> float:
    """Return this process's CPU time for both entropies of a batch, with gradient."""
    latents = torch.randn(batch, dim, requires_grad=True)
    labels = torch.arange(batch) % CLASSES
    started = time.process_time()
    loss = conditional_knn_entropy(latents, labels, NEIGHBORS) - 0.97 * knn_entropy(latents, NEIGHBORS)
    loss.backward()
    return time.process_time() - started


def training_seconds(estimator: Callable[..., tuple[Tensor, Tensor]], memory: int) -> float:
    """Return this process's CPU time for both entropies as in training, with gradient and so many latents in memory."""
    latents = torch.randn(TRAINING_BATCH, TRAINING_DIM, requires_grad=True)
    labels = torch.arange(TRAINING_BATCH) % CLASSES
    remembered = (torch.randn(memory, TRAINING_DIM), torch.arange(memory) % CLASSES) if memory else None
    started = time.process_time()
    within, overall = estimator(latents, labels, memory=remembered)
    (within - 0.97 * overall).backward()
    return time.process_time() - started


# Those of `knn_ib` and of `soft_ib`.
IN_TRAINING: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    f"batch_knn_entropies, k = {NEIGHBORS}": partial(
        batch_knn_entropies, within_neighbors=NEIGHBORS, overall_neighbors=NEIGHBORS
    ),
    "soft_entropies": partial(soft_entropies, sharpness=2.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds

    for width in WIDTHS:
        parameters = sum(p.numel() for p in Encoder(width=width, latent_dim=256).parameters())
        forward, both = (flops / FEW / 1e9 for flops in step_flops(width, FEW))
        # What grows with the batch, so that copies of parameters do not count.
        kept = [
            (saved_bytes(width, 2 * FEW, bfloat16=half) - saved_bytes(width, FEW, bfloat16=half)) / FEW / 2**20
            for half in (False, True)
        ]
        print(
            f"width {width}: {parameters:,} parameters; an image takes {forward:.4f} GFLOP forward, {both:.4f} GFLOP "
            f"forward and backward, and {kept[0]:.2f} MiB in between, {kept[1]:.2f} MiB with bfloat16 autocast"
        )

    times: dict[tuple[int, int], list[float]] = {(batch, dim): [] for batch in BATCHES for dim in DIMS}
    for round_ in range(rounds + 1):
        for (batch, dim), measured in times.items():
            seconds = entropy_seconds(batch, dim)
            if round_:  # the first one warms up
                measured.append(seconds)
    print(
        f"conditional_knn_entropy and knn_entropy with gradient, k = {NEIGHBORS}, {CLASSES} classes: median CPU "
        f"milliseconds of {rounds} rounds"
    )
    print("batch     " + "".join(f"{f'D = {dim}':>12}" for dim in DIMS))
    for batch in BATCHES:
        print(f"{batch:<10}" + "".join(f"{statistics.median(times[batch, dim]) * 1e3:12.2f}" for dim in DIMS))
    print(f"in training, with gradient, batch {TRAINING_BATCH}, D = {TRAINING_DIM}, by the memory's latents: CPU ms")
    for name, estimator in IN_TRAINING.items():
        in_training: dict[int, list[float]] = {memory: [] for memory in MEMORIES}
        for round_ in range(rounds + 1):  # by themselves: the matrices of a large memory leave the next one cold
            for memory, measured in in_training.items():
                seconds = training_seconds(estimator, memory)
                if round_:
                    measured.append(seconds)
        cells = (f"{memory}: {statistics.median(measured) * 1e3:.2f}" for memory, measured in in_training.items())
        print(f"{name}  " + "  ".join(cells))


if __name__ == "__main__":
    main()
