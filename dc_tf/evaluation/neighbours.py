"""The images nearest to test images and queries, by file name, as `dc_tf evaluate` writes them.

    lines = list(of_splits("conv7", train, test, predictions, rows, cosines))     # of k-NN
    lines = list(of_query(ground_truth, 0, ranked, similarities))                 # of retrieval
    write_csv(lines, "neighbours.csv")

A line is a dict: of one neighbour of one image, the nearest first.
"""

import csv
import io
import os
from collections.abc import Iterator

import numpy as np

from dc_tf.data.storage import files
from dc_tf.data.storage.reader import CorruptRow

NEAREST = 5  # of each test image
FIRST = 10  # of each query


def of_splits(layer, train, test, predictions, rows, cosines) -> Iterator[dict]:
    """Yields the neighbours of test rows among training rows.

    Args:
        layer: whose features were compared.
        train, test: splits.Split.
        predictions: (t,) predicted classes.
        rows: (t, n) integers, places of the neighbours in the training split.
        cosines: (t, n).
    """
    names, known = _names(train), {}
    for place, test_row in enumerate(test.rows.tolist()):
        about = {
            "layer": layer,
            "test_row": test_row,
            "test_source": _source(test.reader, test_row),
            "label": names(test.labels[place]),
            "prediction": names(predictions[place]),
        }
        for rank, near in enumerate(rows[place].tolist(), start=1):
            row = int(train.rows[near])
            if row not in known:
                known[row] = _source(train.reader, row)
            yield {
                **about,
                "rank": rank,
                "row": row,
                "source": known[row],
                "neighbour_label": names(train.labels[near]),
                "similarity": float(cosines[place, rank - 1]),
            }


def of_query(ground_truth, index, ranked, similarities) -> Iterator[dict]:
    """Yields the first images of a query.

    Args:
        ground_truth: ground_truth.GroundTruth.
        index: of the query.
        ranked: (n,) database rows, the most similar first.
        similarities: (n,) of each database row.
    """
    query = ground_truth.queries[index]
    answer = query.answers.get(ground_truth.metrics[-1])
    for rank, row in enumerate(ranked[:FIRST].tolist(), start=1):
        yield {
            "query": query.path,
            "rank": rank,
            "row": row,
            "source": ground_truth.database[row],
            "relevance": _relevance(answer, row),
            "similarity": float(similarities[row]),
        }


def write_csv(lines: list[dict], path: str) -> None:
    """Writes the lines, with their names above them, complete or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    data = text.getvalue().encode("utf-8", "backslashreplace")
    files.write_file(os.fspath(path), lambda file: file.write(data))


def _relevance(answer, row):
    if answer is None:
        return "none"
    if np.isin(row, answer.junk):  # the query itself, for one
        return "junk"
    return "positive" if np.isin(row, answer.positives) else "none"


def _names(train):
    """Function of a class number to its name, or to the number where there are no names."""
    names = train.reader.dataset.class_names
    return lambda number: names[number] if names is not None else int(number)


def _source(reader, row):
    try:
        return reader.examples([row])[0]["source"]
    except CorruptRow:
        return ""
