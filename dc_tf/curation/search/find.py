"""The images of a collection that are nearest to some images.

    found = search(features, ["holiday.jpg", "7"], k=10)      # a file, and row 7 of the collection
    found["neighbours"][0]        # {"query": "holiday.jpg", "rank": 1, "row": 3, ...}

Images are compared by the cosine of their whitened features (`directions`). Up to `EXACT_ROWS` rows
every row is compared; beyond, an inverted file beside the features is built once and used
(`inverted_file`).
"""

import dataclasses
import os

import numpy as np
from absl import logging
from PIL import Image

from dc_tf import atomic
from dc_tf.curation.features.directions import DIM, Directions, folder_of
from dc_tf.curation.features.neighbours import Neighbours, nearest_rows, without_row
from dc_tf.curation.features.open import open_features
from dc_tf.curation.features.sources import sources_of
from dc_tf.curation.search.inverted_file import InvertedFile
from dc_tf.curation.tables import TableWriter, check_table_path
from dc_tf.data.inspection import examples_of, paste_tiles, tile
from dc_tf.data.storage.metadata import text
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import ALONE
from dc_tf.distributed.joined import joined
from dc_tf.distributed.task import task_from_environment
from dc_tf.errors import ConfigError
from dc_tf.paths import expand
from dc_tf.run_dir import RunDir

EXACT_ROWS = 1_000_000  # compared one by one; more through an inverted file
COLUMNS = {
    "query": "string",
    "rank": "int64",
    "row": "int64",
    "source": "string",
    "similarity": "float32",
}
PICTURES = (".jpg", ".jpeg", ".png")
_MOST_COLUMNS = 13  # tiles in a line of the sheet


@dataclasses.dataclass(frozen=True)
class Query:
    """An image to search with.

    Attributes:
        name: as given.
        row: row id of the collection; -1 of a file.
        image: bytes of a JPEG or PNG; None of a row.
    """

    name: str
    row: int = -1
    image: bytes | None = None


def search(features, queries, k=10, exact=False, model=None, whiten=DIM, comm=None) -> dict | None:
    """Finds the k nearest images of each query; an image of the collection does not find itself.

    Args:
        features: Features.
        queries: list of paths of image files; row ids, int or str of digits; or Query.
        k: neighbours of each query.
        exact: compare every row, however many there are.
        model: run or SavedModel that made the features, where its recorded path leads nowhere.
        whiten: directions that the features are whitened to; 0 compares them as they are.
        comm: Communicator of the workers that build an inverted file together, which all make the
            call; the chief searches.

    Returns:
        dict of rows, layer, whitened (directions), search (how it was searched, with the recall of
        an inverted file), recall (1.0 of an exact search), queries (their number), and neighbours:
        a list of dict of query, rank from 1, row, source, similarity; nearest first, in the order
        of the queries. None on workers other than the chief.

    Raises:
        ConfigError: what cannot work: no query, a row id out of range, features whose network is
            not known.
        DataError: a query that is no image; corrupt features.
        Preempted: the process was asked to stop.
    """
    queries, comm = read_queries(queries), comm or ALONE
    _check_rows(features, queries)
    _check_numbers(k, whiten)
    k = min(k, features.rows - any(query.image is None for query in queries))
    points = Directions.of(features, whiten, comm)
    index = None if exact or features.rows <= EXACT_ROWS else _index(points, comm)
    if comm.rank:
        return None
    vectors = points.apply(_vectors(features, queries, model))
    found, about = _nearest(points, index, vectors, min(k + 1, features.rows))
    found = without_row(found, [query.row for query in queries], k)
    return {
        "rows": features.rows,
        "layer": features.layer,
        "whitened": points.whitened,
        "queries": len(queries),
        **about,
        "neighbours": list(_records(features, queries, found)),
    }


def search_and_write(
    queries,
    run=None,
    features=None,
    data=None,
    layer=None,
    k=10,
    exact=False,
    output=None,
    sheet=None,
    model=None,
    whiten=DIM,
    column=None,
) -> dict | None:
    """Opens features, searches them, and writes what is asked for.

    The workers that TF_CONFIG names share the making of features and index; the chief searches.

    Args:
        queries, k, exact, model, whiten: as of `search`.
        run, features, data, layer, column: as of `open_features`.
        output: table, .parquet, .csv or .json; None writes none.
        sheet: picture, .jpg or .png; None writes none.

    Returns:
        dict or None, as `search`.

    Raises:
        ConfigError, DataError, Preempted: as of `search` and `open_features`.
    """
    task_from_environment()  # refuses a wrong TF_CONFIG before anything is opened
    output, sheet = (path and expand(path) for path in (output, sheet))
    if output is not None:
        check_table_path(output)
    if sheet is not None:
        check_table_path(sheet, "--sheet", PICTURES)
    _check_numbers(k, whiten)
    if sheet is not None and run is None and data is None:
        raise ConfigError(f"--sheet={sheet} shows images; name their data set with --data.")
    queries = read_queries(queries)
    with joined(*_shared_folder(run, features)) as comm:
        opened = open_features(run, features, data, layer, comm=comm, column=column)
        with raise_on_all(comm):
            _check_rows(opened, queries)
        found = search(opened, queries, k, exact, model, whiten, comm)
    if found is None:
        return None
    if output is not None:
        write_table(found, output)
    if sheet is not None:
        write_sheet(found, opened, queries, sheet)
    return found


def _shared_folder(run, features) -> tuple[str, str]:
    """(flag with value, folder) where workers hold their rendezvous."""
    if run is not None:
        return f"--run={run}", RunDir(os.fspath(run)).embeddings("search")
    first = features if isinstance(features, str | os.PathLike) else (features or [""])[0]
    first = expand(os.fspath(first)).split(",")[0]
    folder = first if os.path.isdir(first) else os.path.dirname(first)
    return f"--features={first}", os.path.join(folder, "search")


def read_queries(given) -> list[Query]:
    """The queries that paths and row ids mean; digits alone are a row id.

    Raises:
        ConfigError: there is none.
        DataError: a file is no image that can be used.
    """
    if not given:
        raise ConfigError("there is no --query; give image files, or row ids of the collection.")
    return [_read_query(query) for query in given]


def _read_query(given):
    if isinstance(given, Query):
        return given
    if str(given).isdecimal():
        return Query(str(given), int(given))
    from dc_tf.curation.features.network import read_image  # which imports TensorFlow

    return Query(str(given), image=read_image(expand(str(given))))


def _check_numbers(k, whiten):
    for name, number, least in (("k", k, 1), ("whiten", whiten, 0)):
        if number < least:
            raise ConfigError(f"--{name}={number}; use {least} or more.")


def _check_rows(features, queries):
    for query in queries:
        if query.row >= features.rows:
            raise ConfigError(
                f"--query={query.name} is not a row of the collection, which has rows "
                f"0..{features.rows - 1}; a file of that name is ./{query.name}."
            )


def write_table(found, path) -> None:
    """Writes the neighbours of a result of `search` as .parquet, .csv or .json."""
    records = found["neighbours"]
    with TableWriter(path, COLUMNS) as table:
        table.write({name: [record[name] for record in records] for name in COLUMNS})


def write_sheet(found, features, queries, path) -> None:
    """Writes a picture: a line for each query, the query first, then its neighbours.

    Args:
        found: result of `search`.
        features: Features with a data set.
        queries: as of `search`, the same.
        path: .jpg or .png.
    """
    queries = read_queries(queries)
    names = features.dataset.class_names
    tiles, k = [], max(1, len(found["neighbours"]) // len(queries))
    columns = min(k + 1, _MOST_COLUMNS)
    for number, query in enumerate(queries):
        records = found["neighbours"][number * k : (number + 1) * k]
        rows = np.array([record["row"] for record in records])
        tiles.append(_query_tile(features.dataset, query, names))
        for record, example in zip(records, examples_of(features.dataset, rows), strict=True):
            tiles.append(tile(f"{record['row']} {record['similarity']:.3f}", example, names))
        tiles += [None] * (-len(tiles) % columns)
    with atomic.replacing(path, ending=os.path.splitext(path)[1]) as staging:
        paste_tiles(tiles, columns, staging)


def as_text(found) -> str:
    """A table of the neighbours for a terminal."""
    what = f", whitened to {found['whitened']}" if found["whitened"] else ""
    lines = [f"{found['search']}; cosine of {found['layer'] or 'the vectors'}{what}"]
    lines.append(f"{'query':<24}  {'rank':>4}  {'row':>10}  {'similarity':>10}  source")
    for record in found["neighbours"]:
        lines.append(
            f"{text(record['query'][-24:], 24):<24}  {record['rank']:>4}  {record['row']:>10}  "
            f"{record['similarity']:>10.4f}  {text(record['source'] or '-', 60)}"
        )
    return "\n".join(lines)


def _query_tile(dataset, query, names) -> Image.Image:
    if query.image is None:
        (example,) = examples_of(dataset, np.array([query.row]))
    else:
        example = {"encoded": query.image, "label": None, "source": query.name}
    return tile("query", example, names)


def _vectors(features, queries, model):
    """(n, dim) float32 vectors of the queries."""
    vectors = np.empty((len(queries), features.dim), np.float32)
    files = [number for number, query in enumerate(queries) if query.image is not None]
    rows = [number for number, query in enumerate(queries) if query.image is None]
    vectors[rows] = features.take([queries[number].row for number in rows])
    if files:
        from dc_tf.curation.features.network import embed_images, network_of

        images = [queries[number].image for number in files]
        vectors[files] = embed_images(network_of(features, model), features, images)
    return vectors


def _index(points, comm) -> InvertedFile | None:
    """The inverted file beside the features; None where none can be kept.

    Raises:
        ConfigError: none can be kept, and several workers were to make it.
    """
    folder = os.path.join(folder_of(points), f"lists-{points.whitened}")
    try:
        return InvertedFile.of(points, folder, comm)
    except OSError as error:
        if comm.size > 1:
            raise ConfigError(
                f"no index can be kept in {folder} ({error}); use --exact."
            ) from error
        logging.warning("no index can be kept in %s (%s); comparing every row", folder, error)
        return None


def _nearest(features, index, vectors, count) -> tuple[Neighbours, dict]:
    if index is None:
        return nearest_rows(features, vectors, count), {"search": "exact", "recall": 1.0}
    about = {"search": index.statement, "recall": index.about["recall"]}
    return index.nearest_rows(vectors, count), about


def _records(features, queries, found):
    """The rows of the table."""
    for number, query in enumerate(queries):
        there = found.rows[number] >= 0
        rows = found.rows[number][there]
        cosines = found.cosines[number][there]
        sources = sources_of(features, rows)
        for rank, (row, source, cosine) in enumerate(zip(rows, sources, cosines, strict=True), 1):
            yield {
                "query": query.name,
                "rank": rank,
                "row": int(row),
                "source": source,
                "similarity": float(cosine),
            }
