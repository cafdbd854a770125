"""The tables of a sweep as Markdown, which is also what a terminal shows.

    print(tables(found))                  # of results.collect

One table per evaluation: variants and points down, layers across; with more layers than these, the
other way round. Below are the paper's results of the same variants, points or layers.
"""

_FEW_LAYERS = 4
UNNAMED = "base"  # the row of a sweep without variants and axes
_BELOW = "↓"
_EXPLAINED = (
    f"{_BELOW} below the untrained network of the same shape and seed, in one seed at least"
)


def tables(found: dict) -> str:
    """Markdown of a sweep's result."""
    rows = found["rows"]
    parts = [f"# {found['title']}"]
    for name in dict.fromkeys(name for row in rows for name in row["metrics"]):
        parts.append(_evaluation(name, [row for row in rows if name in row["metrics"]]))
    if found["paper"]:
        parts.append(_paper(found["paper"]))
    if found["failed"]:
        failed = [f"- {name}: {reason}" for name, reason in found["failed"].items()]
        parts.append("\n".join(["Failed:", "", *failed]))
    return "\n\n".join(parts) + "\n"


def label_of(row: dict) -> str:
    """The name of a row: its variant and the labels of its points."""
    return ", ".join([*filter(None, [row["variant"]]), *row["axes"].values()]) or UNNAMED


def _evaluation(name, rows) -> str:
    layers = list(dict.fromkeys(layer for row in rows for layer in row["metrics"][name]))
    seeds = max(value["seeds"] for row in rows for value in row["metrics"][name].values())
    head = f"{name}, percent" + (f", mean and deviation of {seeds} seeds" if seeds > 1 else "")
    if len(layers) > max(_FEW_LAYERS, len(rows)):
        columns = ["layer", *(label_of(row) for row in rows)]
        lines = [[layer, *(_value(row, name, layer) for row in rows)] for layer in layers]
    else:
        axes = list(dict.fromkeys(axis for row in rows for axis in row["axes"]))
        named = any(row["variant"] for row in rows)
        columns = [*(["variant"] if named else []), *axes, *(layer or name for layer in layers)]
        lines = [
            [
                *([row["variant"]] if named else []),
                *(row["axes"].get(axis, "") for axis in axes),
                *(_value(row, name, layer) for layer in layers),
            ]
            for row in rows
        ]
    text = f"{head}:\n\n{markdown(columns, lines)}"
    explained = [_EXPLAINED] if _BELOW in text else []
    return "\n\n".join([text, *explained, *_not_compared(name, rows)])


def _not_compared(name, rows) -> list[str]:
    """A sentence on the rows whose untrained networks were not measured, if there are any."""
    found = [label_of(row) for row in rows if _is_not_compared(row["metrics"][name])]
    if not found:
        return []
    which = "all rows" if len(found) == len(rows) else ", ".join(found)
    return [f"untrained network not measured, so not compared with it: {which}"]


def _is_not_compared(layers):
    return any(value["below_random_init"] is None for value in layers.values())


def _value(row, name, layer):
    value = row["metrics"][name].get(layer)
    if value is None:
        return ""
    text = f"{value['mean']:.1f}"
    if value["deviation"] is not None:
        text += f" ± {value['deviation']:.1f}"
    return f"{text} {_BELOW}" if value["below_random_init"] else text


def _paper(paper) -> str:
    curves = paper["curves"]
    labels = list(dict.fromkeys(label for curve in curves.values() for label in curve))
    lines = [[label, *(_number(curve.get(label)) for curve in curves.values())] for label in labels]
    return f"The paper, {paper['source']}:\n\n{markdown(['', *curves], lines)}"


def _number(value):
    return "" if value is None else f"{value:.1f}"


def markdown(header, rows) -> str:
    """A Markdown table of text cells, with columns of equal width."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    texts = [
        "| "
        + " | ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])
