"""What re-encoding images changes: RobustBench's test images re-encoded as JPEG, under FGSM and in the worst case.

python benchmarks/reencoding.py ORIGINAL REENCODED --output docs/records/reencoding.csv

ORIGINAL and REENCODED are data sets for --dataset: the original files, such as robustbench.npz, and cifar10-jpeg. The
program attacks the re-encoded copies of the test images of ORIGINAL; docs/records/zoo-lossless has the originals
themselves. Models that the output already has are not measured again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

import ibrobust
from ibrobust.data.dataset import Split

EPSILON = 2 / 255
COLUMNS = ("clean", "fgsm", "worst_case")
MODELS = [f"{name}-w16-s{seed}" for name in ("cross_entropy", "knn_ib-k50", "soft_ib") for seed in range(3)]


def paired_with(original: Split, reencoded: Split) -> Tensor:
    """Return the index of the re-encoded image of each original one, shape (N,), int64.

    JPEG keeps the means of blocks of pixels nearly as they are, so an image is known again by these.
    Raises SystemExit if two originals have the same nearest image, or if a label differs.
    """
    means = [F.avg_pool2d(torch.as_tensor(each.images).float(), 4).flatten(1) for each in (original, reencoded)]
    nearest = torch.cdist(*means).argmin(dim=1)
    if len(nearest.unique()) < len(nearest) or not torch.equal(reencoded.labels[nearest], original.labels):
        raise SystemExit("The second data set does not have the images of the first.")
    return nearest


def main() -> None:
    """Measure each model, and write its line when it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("original")
    parser.add_argument("reencoded")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    original, reencoded = (ibrobust.load_dataset(source).test for source in (options.original, options.reencoded))
    chosen = paired_with(original, reencoded)
    rows = pd.read_csv(options.output).to_dict("records") if options.output.exists() else []
    for name in MODELS:
        if any(row["model"] == name for row in rows):
            continue
        found = ibrobust.run_attacks(
            ibrobust.load_model(name),
            reencoded.images[chosen],
            original.labels,
            attacks=[ibrobust.FGSM(), ibrobust.WorstCase()],
            epsilons=[EPSILON],
        )
        shares = (found[0].clean_accuracy, *(each.robust_accuracy for each in found))
        percent = {kind: f"{share:.1%}"[:-1] for kind, share in zip(COLUMNS, shares, strict=True)}
        rows.append({"model": name, **percent, "weights": ibrobust.model_card(name).weights.sha256})
        pd.DataFrame(rows).to_csv(options.output, index=False)
        print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
