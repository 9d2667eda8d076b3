"""Time and memory of the kNN entropy, value and gradient, beside those of its peers on the same points.

    python benchmarks/entropy.py --sizes 500 5000 50000 --plot entropy.png

All methods take turns in one process, so that whatever else the machine does hits them alike; the figures to quote are
the ratios. Memory is that of a process of its own for each method, above what it held before the call. A peer that
would take too long or too much memory is left out, with the reason.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measuring import add_options, cpu_seconds, machine, memory_of, print_memory, print_table, typical, wait_for
from scipy.spatial import KDTree
from scipy.special import digamma, gammaln
from torch import Tensor

from ibrobust.estimators import conditional_knn_entropy, knn_entropy

OURS = "ibrobust, value and gradient"
NUM_CLASSES = 10
# Repetitions stop here, however few they are, once a method has used this much time at one size.
SECONDS_FOR_REPEATS = 120.0


@dataclass(frozen=True)
class Method:
    """A way to the estimate: points (N, D) and k to nats. `matrices` N x N float32 matrices are held at once."""

    name: str
    run: Callable[[Tensor, int], float]
    matrices: int = 0


def entropy_of(distances: Tensor | np.ndarray, count: int, dim: int, k: int) -> float:
    """The estimate, in nats, from the squared distances (N,) to the k-th neighbours."""
    mean_log = float(np.log(np.asarray(distances, dtype=np.float64)).mean())
    log_volume = dim / 2 * math.log(math.pi) - float(gammaln(dim / 2 + 1))
    return float(digamma(count) - digamma(k)) + log_volume + dim / 2 * mean_log


def ours(z: Tensor, k: int) -> float:
    z = z.detach().requires_grad_()
    value = knn_entropy(z, k)
    value.backward()
    return float(value.detach())


def ours_value(z: Tensor, k: int) -> float:
    return float(knn_entropy(z, k))


def ours_conditional(z: Tensor, k: int) -> float:
    z = z.detach().requires_grad_()
    value = conditional_knn_entropy(z, torch.arange(len(z), device=z.device) % NUM_CLASSES, k)
    value.backward()
    return float(value.detach())


def faiss_flat(z: Tensor, k: int) -> float:
    import faiss

    points = z.cpu().numpy()
    index = faiss.IndexFlatL2(points.shape[1])
    if z.is_cuda and hasattr(faiss, "StandardGpuResources"):
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), z.device.index or 0, index)
    index.add(points)
    distances, _ = index.search(points, k + 1)  # a point is its own nearest neighbour
    return entropy_of(distances[:, k], *z.shape, k)


def sklearn_brute(z: Tensor, k: int) -> float:
    from sklearn.neighbors import NearestNeighbors

    distances, _ = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(z.cpu().numpy()).kneighbors()
    return entropy_of(np.square(distances[:, k - 1]), *z.shape, k)


def scipy_tree(z: Tensor, k: int) -> float:
    points = z.cpu().numpy()
    distances, _ = KDTree(points).query(points, [k + 1], workers=torch.get_num_threads())
    return entropy_of(np.square(distances[:, 0]), *z.shape, k)


def through_cdist(z: Tensor, k: int) -> float:
    z = z.detach().requires_grad_()
    count, dim = z.shape
    distances = torch.cdist(z, z)  # (N, N)
    kth = distances.kthvalue(k + 1, dim=1).values  # (N,)
    value = dim * kth.log().mean()
    value.backward()
    return entropy_of(kth.detach().cpu().square(), count, dim, k)


METHODS = [
    Method(OURS, ours),
    Method("ibrobust, value", ours_value),
    Method(f"ibrobust, H[Z|Y] of {NUM_CLASSES} classes, value and gradient", ours_conditional),
    Method("faiss IndexFlatL2, value", faiss_flat),
    Method("scikit-learn brute force, value", sklearn_brute),
    Method("SciPy k-d tree, value", scipy_tree),
    Method("autograd through torch.cdist", through_cdist, matrices=3),
]


def draw(count: int, dim: int, device: str) -> Tensor:
    """Points as a trained encoder's: ten clusters, each a narrow Gaussian."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(NUM_CLASSES, dim, generator=generator)
    points = centres[torch.arange(count) % NUM_CLASSES] + 0.5 * torch.randn(count, dim, generator=generator)
    return points.to(device)


def seconds_of(method: Method, z: Tensor, args: argparse.Namespace) -> tuple[float, float]:
    """Return seconds and the value in nats."""
    clock = cpu_seconds if args.cpu_time else time.perf_counter
    gc.collect()
    wait_for(args.device)
    start = clock()
    value = method.run(z, args.num_neighbors)  # a float, so a GPU has finished
    return clock() - start, value


def too_much(method: Method, count: int, before: tuple[int, float] | None, args: argparse.Namespace) -> str:
    """Return why a method is left out at this size, or nothing."""
    if method.name.startswith("faiss") and importlib.util.find_spec("faiss") is None:
        return "faiss is not installed"
    gigabytes = method.matrices * count**2 * 4 / 2**30
    if gigabytes > args.max_gigabytes:
        return f"would hold {gigabytes:.0f} GiB"
    if before is not None and (expected := before[1] * (count / before[0]) ** 2) > args.max_seconds:
        return f"would take about {expected:.0f} s"
    return ""


def time_all(count: int, last: dict[str, tuple[int, float]], args: argparse.Namespace) -> dict[str, float]:
    """Return the median seconds of each method at one size; print one line each."""
    z = draw(count, args.dim, args.device)
    left_out = {m.name: reason for m in METHODS if (reason := too_much(m, count, last.get(m.name), args))}
    taking_part = [method for method in METHODS if method.name not in left_out]
    times: dict[str, list[float]] = {method.name: [] for method in taking_part}
    values: dict[str, float] = {}
    for turn in range(args.rounds + 1):
        for method in taking_part:
            if sum(times[method.name]) > SECONDS_FOR_REPEATS:
                continue
            seconds, values[method.name] = seconds_of(method, z, args)
            # The first turn warms up, unless it was long enough to make no difference.
            if turn > 0 or seconds > 5.0:
                times[method.name].append(seconds)
    medians = {name: typical(of, args) for name, of in times.items()}

    rows = []
    for method in METHODS:
        if method.name in left_out:
            rows.append([method.name, left_out[method.name], "", "", "", ""])
            continue
        name, median = method.name, medians[method.name]
        memory = memory_of(name, args, "--sizes", str(count))
        ratio = f"{median / medians[OURS]:.2f}"
        rows.append([name, f"{1e3 * median:.1f} ms", ratio, str(len(times[name])), memory, f"{values[name]:.3f}"])
        if "H[Z|Y]" not in name and not math.isclose(values[name], values[OURS], rel_tol=1e-3):
            raise SystemExit(f"{name} gives {values[name]} nats where {OURS} gives {values[OURS]}: not the same work.")
    print_table(
        [
            f"N = {count:,}, D = {args.dim}, k = {args.num_neighbors}",
            "median",
            "to ours",
            "runs",
            "peak memory",
            "nats",
        ],
        rows,
    )
    return medians


def run_for_memory(args: argparse.Namespace) -> None:
    method = next(method for method in METHODS if method.name == args.memory_of)
    method.run(draw(200, args.dim, args.device), args.num_neighbors)  # imports and thread pools are not the method's
    z = draw(args.sizes[0], args.dim, args.device)
    print_memory(partial(method.run, z, args.num_neighbors), args)


def draw_growth(medians: dict[int, dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
    for method in METHODS:
        points = [(count, at[method.name]) for count, at in medians.items() if method.name in at]
        width = 2.5 if method.name == OURS else 1.2
        axes.loglog(*zip(*points, strict=True), marker="o", linewidth=width, label=method.name)
    axes.set(xlabel="points N", ylabel="seconds (median)", title="k-nearest-neighbour entropy")
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def limit_threads(threads: int) -> None:
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(threads)  # scikit-learn's and NumPy's
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        faiss.omp_set_num_threads(threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, rounds=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 2000, 5000, 10_000, 20_000, 50_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--num-neighbors", type=int, default=3)
    parser.add_argument(
        "--max-seconds", type=float, default=120.0, help="leave a method out where it would take longer"
    )
    parser.add_argument("--max-gigabytes", type=float, default=8.0, help="leave a method out where it would hold more")
    parser.add_argument("--plot", type=Path, help="PNG or PDF file for the growth with N")
    args = parser.parse_args()
    limit_threads(args.threads)
    if args.memory_of:
        run_for_memory(args)
        return

    print(machine(args, ["ibrobust", "torch", "faiss-cpu", "scikit-learn", "scipy"]) + "\n")
    last: dict[str, tuple[int, float]] = {}
    medians: dict[int, dict[str, float]] = {}
    for count in sorted(args.sizes):
        medians[count] = time_all(count, last, args)
        last |= {name: (count, seconds) for name, seconds in medians[count].items()}
    if args.plot:
        draw_growth(medians, args.plot)
        print(f"\nGrowth with N: {args.plot}")


if __name__ == "__main__":
    main()
