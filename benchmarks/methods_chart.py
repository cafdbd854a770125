"""Draws the results of `methods.py` as an SVG: accuracy by layer, mean over the seeds.

    python benchmarks/methods_chart.py --input=benchmarks/results/methods \\
        --output=docs/images/cifar10.svg

Needs nothing but Python, and gives the same file on every machine.
"""

import argparse
import json
import pathlib
import statistics
from collections.abc import Iterator

METHODS = {
    "random": "random weights",
    "rotnet": "RotNet",
    "deepcluster": "DeepCluster",
    "deepercluster": "DeeperCluster",
}
MEASURES = {"knn": "k-NN", "linear": "linear probe"}
DASHES = {"random": "2 4", "rotnet": "9 4", "deepcluster": "9 3 2 3", "deepercluster": "none"}
WIDTH, HEIGHT, LEFT, TOP, GAP = 960, 390, 52, 84, 48
PANEL = (WIDTH - 2 * LEFT - GAP + 24) / 2
DEPTH = 230
STYLE = """
    .panel { fill: #ffffff; stroke: #d0d7de; }
    text { font: 14px system-ui, "Segoe UI", Roboto, Arial, sans-serif; fill: #1f2328; }
    .title { font-weight: 600; font-size: 16px; }
    .grid { stroke: #d8dee4; }
    .line { fill: none; stroke-width: 2.4; }
    .random { stroke: #6e7781; } .rotnet { stroke: #1f6feb; }
    .deepcluster { stroke: #8250df; } .deepercluster { stroke: #bc4c00; stroke-width: 3.4; }
    @media (prefers-color-scheme: dark) {
      .panel { fill: #161b22; stroke: #3d444d; }
      text { fill: #e6edf3; }
      .grid { stroke: #2f363e; }
      .random { stroke: #9aa4af; } .rotnet { stroke: #74a9ff; }
      .deepcluster { stroke: #c297ff; } .deepercluster { stroke: #f0883e; }
    }
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="folder of seed-*.json")
    parser.add_argument("--output", required=True, help="SVG file")
    options = parser.parse_args()
    seeds = [
        json.loads(path.read_text())["top1"]
        for path in sorted(pathlib.Path(options.input).glob("seed-*.json"))
    ]
    pathlib.Path(options.output).write_text(chart(seeds))


def chart(seeds) -> str:
    """The SVG of the results of some seeds, {measure: {layer: {method: percent}}} each."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"  <title>Top-1 accuracy by layer, mean of {len(seeds)} seeds</title>",
        f"  <style>{STYLE}  </style>",
        f'  <rect class="panel" x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="10"/>',
        *legend(),
    ]
    for number, measure in enumerate(MEASURES):
        parts += panel(seeds, measure, LEFT + number * (PANEL + GAP))
    return "\n".join([*parts, "</svg>", ""])


def legend() -> Iterator[str]:
    for number, (method, name) in enumerate(METHODS.items()):
        x = LEFT + number * 190
        yield (
            f'  <path class="line {method}" stroke-dasharray="{DASHES[method]}" '
            f'd="M{x},28 h36"/><text x="{x + 44}" y="33">{name}</text>'
        )


def panel(seeds, measure, left) -> Iterator[str]:
    """Yields the SVG elements of one measure: axes and curves."""
    layers = list(seeds[0][measure])
    low, high = 20, 75

    def x(index):
        return left + 12 + index * (PANEL - 24) / (len(layers) - 1)

    def y(percent):
        return TOP + DEPTH * (high - percent) / (high - low)

    yield f'  <text class="title" x="{left}" y="68">{MEASURES[measure]}, top-1 in percent</text>'
    for percent in range(20, high + 1, 10):
        yield f'  <path class="grid" d="M{left},{y(percent):.1f} h{PANEL:.1f}"/>'
        yield f'  <text x="{left - 8}" y="{y(percent) + 5:.1f}" text-anchor="end">{percent}</text>'
    for index, layer in enumerate(layers):
        at = f"{x(index):.1f},{TOP + DEPTH + 16}"
        place = at.replace(",", '" y="')
        yield (f'  <text x="{place}" text-anchor="end" transform="rotate(-55 {at})">{layer}</text>')
    for method in METHODS:
        means = [statistics.mean(s[measure][layer][method] for s in seeds) for layer in layers]
        points = " ".join(f"{x(i):.1f},{y(mean):.1f}" for i, mean in enumerate(means))
        yield (
            f'  <polyline class="line {method}" stroke-dasharray="{DASHES[method]}" '
            f'points="{points}"/>'
        )


if __name__ == "__main__":
    main()
