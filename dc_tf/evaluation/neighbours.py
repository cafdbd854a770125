"""The images nearest to test images and queries, by file name, as `dc_tf evaluate` writes them.

    lines = list(of_splits("conv7", train, test, predictions, rows, cosines))     # of k-NN
    lines = list(of_query(ground_truth, 0, ranked, similarities))                 # of retrieval
    lines = list(of_rows(dataset, asked, nearest, similarities))    # of retrieval by features
    write_csv(lines, "neighbours.csv")

A line is a dict: of one neighbour of one image, the nearest first.
"""

import csv
import io
import os
from collections.abc import Iterator

import numpy as np

from dc_tf.data.storage import files
from dc_tf.data.storage.row_sources import sources_of

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
    names = _names(train)
    near_rows = np.unique(train.rows[rows])
    known = dict(zip(near_rows.tolist(), sources_of(train.reader.dataset, near_rows), strict=True))
    of_test = sources_of(test.reader.dataset, test.rows)
    for place, test_row in enumerate(test.rows.tolist()):
        about = {
            "layer": layer,
            "test_row": test_row,
            "test_source": of_test[place],
            "label": names(test.labels[place]),
            "prediction": names(predictions[place]),
        }
        for rank, near in enumerate(rows[place].tolist(), start=1):
            row = int(train.rows[near])
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


def of_rows(dataset, asked, nearest, similarities) -> Iterator[dict]:
    """Yields the first images of queries that are rows of a data set.

    Args:
        dataset: Dataset, whose rows are all labelled.
        asked: (q,) row ids of the queries.
        nearest: (q, n) row ids, the most similar first.
        similarities: (q, n).
    """
    rows, labels = np.unique([*asked, *np.ravel(nearest)]), dataset.labels()
    known = dict(zip(rows.tolist(), sources_of(dataset, rows), strict=True))
    for query, own, cosines in zip(asked.tolist(), nearest.tolist(), similarities, strict=True):
        for rank, (row, cosine) in enumerate(zip(own, cosines.tolist(), strict=True), start=1):
            yield {
                "query_row": query,
                "query": known[query],
                "rank": rank,
                "row": row,
                "source": known[row],
                "relevance": "positive" if labels[row] == labels[query] else "none",
                "similarity": cosine,
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
