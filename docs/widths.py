"""The table and the figure of docs/results.md that compare networks of several widths."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ibrobust.epsilon import format_epsilon
from ibrobust.readable import per_cent
from ibrobust.reporting.figures.style import NOTE, grid_of_axes, legend_below, name_panels, save, study_style
from ibrobust.reporting.marks import BOUND

EPSILONS = (2 / 255, 4 / 255, 8 / 255)
IMAGES = 1000  # a few results have fewer
# Okabe and Ito's palette, suitable for colour-blind readers, as in the other figures.
LOOKS = {"cross_entropy-fixed_power": ("#000000", "X"), "knn_ib-k50": ("#0072B2", "o")}


@dataclass(frozen=True)
class Network:
    """What one network withstands, in counts of `images`; by epsilon, where it was measured.

    `left` is an upper bound at the epsilons in `bounds`.
    """

    name: str
    decoder: str
    images: int
    clean: int
    fgsm: dict[float, int]
    left: dict[float, int]
    bounds: set[float]

    @property
    def objective(self) -> str:
        """Its name without width and seed."""
        return self.name.rpartition("-w")[0]

    @property
    def width(self) -> int:
        """Channels of the first layer."""
        return int(self.name.rpartition("-w")[2].partition("-")[0])


def read_widths(*files: Path) -> list[Network]:
    """Return the first seeds of both objectives in tables by benchmarks/worst_case.py, by objective and width."""
    found: dict[str, Network] = {}
    for file in files:
        with file.open(encoding="utf-8", newline="") as text:
            for line in csv.DictReader(text):
                objective, _, rest = line["model"].rpartition("-w")
                others = line["norm"] != "Linf" or int(line["images"]) != IMAGES
                if objective not in LOOKS or not rest.endswith("-s0") or others:
                    continue
                new = Network(line["model"], line["decoder"], int(line["images"]), int(line["clean"]), {}, {}, set())
                network = found.setdefault(new.name, new)
                epsilon = next(each for each in EPSILONS if abs(each - float(line["epsilon"])) < 1e-5)
                network.fgsm[epsilon], network.left[epsilon] = int(line["fgsm"]), int(line["left"])
                if line["upper_bound"] == "1":
                    network.bounds.add(epsilon)
    return sorted(found.values(), key=lambda network: (network.objective, network.width))


def accuracy_cell(share: float | None, *, is_bound: bool = False, digits: int = 1) -> str:
    """Return an accuracy in % as every table shows it, with a sign if it is an upper bound; nothing if it is None."""
    # Nothing is below 0, so that a bound of 0 is the value.
    return "" if share is None else f"{'≤ ' if is_bound and share else ''}{per_cent(share, digits, is_bound=is_bound)}"


def widths_rows(networks: list[Network]) -> Iterator[list[str]]:
    """Yield the table's columns, then a row for each network: clean, FGSM and worst case in %."""
    radii = [format_epsilon(epsilon) for epsilon in EPSILONS]
    yield ["network (decoder)", "clean", *(f"{kind} {radius}" for radius in radii for kind in ("FGSM", "worst case"))]
    for network in networks:
        cells = []
        for epsilon in EPSILONS:
            for counts in (network.fgsm, network.left):
                share = counts[epsilon] / network.images if epsilon in counts else None
                cells.append(accuracy_cell(share, is_bound=counts is network.left and epsilon in network.bounds))
        yield [f"{network.name} ({network.decoder})", accuracy_cell(network.clean / network.images), *cells]


def draw_widths(networks: list[Network], out: Path) -> list[Path]:
    """Draw accuracy under FGSM and in the worst case against width, a panel for each epsilon of most networks.

    Upper bounds are marked.
    """
    widths = sorted({network.width for network in networks})
    # Few points say nothing about a trend.
    drawn = [each for each in EPSILONS if 2 * sum(each in network.left for network in networks) > len(networks)]
    with study_style() as new:
        figure, places = grid_of_axes(new, len(drawn))
        name_panels(places, [f"ε = {format_epsilon(epsilon)}" for epsilon in drawn])
        entries = {}
        for place, epsilon in zip(places, drawn, strict=True):
            for objective, (colour, marker) in LOOKS.items():
                of_objective = [network for network in networks if network.objective == objective]
                for dashes, title in (("-", "FGSM"), (":", "worst case")):
                    points = [
                        (network.width, 100 * counts[epsilon] / network.images)
                        for network in of_objective
                        for counts in [network.fgsm if title == "FGSM" else network.left]
                        if epsilon in counts
                    ]
                    if points:
                        (line,) = place.axes.plot(*zip(*points, strict=True), dashes, color=colour, marker=marker)
                        entries[f"{objective}, {title}"] = line
            for network in networks:
                if epsilon in network.bounds and network.left[epsilon]:  # nothing is below 0
                    at = (network.width, 100 * network.left[epsilon] / network.images)
                    place.axes.annotate(BOUND, at, (0, 2), textcoords="offset points", ha="center", color=NOTE)
            place.axes.set_xscale("log", base=2)
            place.axes.set_xticks(widths, [str(width) for width in widths])
            place.axes.minorticks_off()
            place.axes.set_ylim(bottom=0)
            if place.bottom:
                place.axes.set_xlabel("width")
            if place.left:
                place.axes.set_ylabel("accuracy (%)")
        note = "one seed of each network, first decoder, 1,000 images"
        if any(network.left[epsilon] for network in networks for epsilon in network.bounds & set(drawn)):
            note += f"; {BOUND} upper bound: other attacks may break more images"
        legend_below(figure, entries, note)
        return save(figure, out, "widths")
