"""What a classifier gets right: counts of every pair of classes, and metrics from them.

confusion = confusion_matrix(labels, predictions, classes=3)     # [label, prediction]
by_class(confusion)["recall"]                                    # (classes,)
overall(confusion)                                               # {"top1": ..., ...}
draw_confusion(confusion, ["cat", "dog", "owl"], "confusion.png")
"""

import numpy as np

from dc_tf.curation.tables import TableWriter

_DOTS_PER_INCH = 120
_MOST_NUMBERS = 20  # classes up to which the picture has the counts
_MOST_NAMES = 60  # classes up to which it names them
_LONGEST_NAME = 24  # characters
BY_CLASS = {
    "class": "string",
    "images": "int64",
    "predicted": "int64",
    "correct": "int64",
    "precision": "float64",
    "recall": "float64",
}


def confusion_matrix(labels, predictions, classes: int) -> np.ndarray:
    """(classes, classes) int64: images of a class (row) by predicted class (column)."""
    pairs = np.asarray(labels, np.int64) * classes + np.asarray(predictions, np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def by_class(confusion) -> dict:
    """Counts and shares of every class.

    Returns:
        {"images", "predicted", "correct": (classes,) int64; "precision", "recall": (classes,)
        float64, NaN for a class that is never predicted, or has no image}.
    """
    correct = np.diagonal(confusion)
    images, predicted = confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):
        precision, recall = correct / predicted, correct / images
    counts = {"images": images, "predicted": predicted, "correct": correct}
    return {**counts, "precision": precision, "recall": recall}


def overall(confusion) -> dict:
    """{"top1": share of correct images, "mean_class": mean recall of the classes with images}."""
    recall = by_class(confusion)["recall"]
    return {
        "top1": float(np.trace(confusion) / confusion.sum()),
        "mean_class": float(np.nanmean(recall)),
    }


def lowest_recall(confusion, names, count: int) -> dict:
    """{class: recall} of the classes with images that are recognised least."""
    recall = by_class(confusion)["recall"]
    order = [i for i in np.argsort(recall, kind="stable") if not np.isnan(recall[i])]
    return {names[i]: float(recall[i]) for i in order[:count]}


def write_by_class(confusion, names, path) -> None:
    """Writes a table with a line for each class; a share that is undefined is empty."""
    columns = by_class(confusion)
    for name in ("precision", "recall"):
        columns[name] = [None if np.isnan(share) else share for share in columns[name].tolist()]
    with TableWriter(path, BY_CLASS) as table:
        table.write({"class": list(names), **columns})


def write_confusion(confusion, names, path) -> None:
    """Writes the counts: a line for each class, with a column for each predicted one."""
    names = [str(name) for name in names]
    columns = [("label", "string"), *((name, "int64") for name in names)]
    rows = [list(names), *confusion.T]
    write_columns(columns, rows, path)


def write_columns(columns, values, path) -> None:
    """Writes a table of (name, type) columns, of which names may repeat."""
    import pyarrow

    schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in columns])
    arrays = [pyarrow.array(v, field.type) for v, field in zip(values, schema, strict=True)]
    with TableWriter(path, schema) as table:
        table.write(pyarrow.Table.from_arrays(arrays, schema=schema))


def draw_confusion(confusion, names, path) -> None:
    """Draws the matrix: colours are shares of each label's images, numbers are counts.

    Args:
        confusion: as of `confusion_matrix`.
        names: of the classes.
        path: picture; its ending selects the format (png, pdf, svg).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = len(confusion)
    side = min(16.0, 4.0 + 0.3 * classes)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    title = f"{confusion.sum():,} images, {100 * overall(confusion)['top1']:.1f} % correct"
    axes = figure.add_subplot(xlabel="predicted", ylabel="label", title=title)
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, label="share of the label's images", shrink=0.8)
    if classes <= _MOST_NAMES:
        shown = [_shortened(str(name)) for name in names]
        axes.set_xticks(range(classes), shown, rotation=90, parse_math=False)
        axes.set_yticks(range(classes), shown, parse_math=False)
    if classes <= _MOST_NUMBERS:
        for (row, column), count in np.ndenumerate(confusion):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour)
    figure.savefig(path, dpi=_DOTS_PER_INCH)


def _shortened(name):
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
