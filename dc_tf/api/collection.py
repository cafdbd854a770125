"""Finds similar images, copies, and a balanced subset of a data set."""

from __future__ import annotations

import os
import typing
from collections.abc import Sequence

from dc_tf.api.arguments import (
    Path,
    path_or_none,
    paths_or_none,
    queries_of,
    several,
    takes_arguments,
)
from dc_tf.kmeans_options import COMMAND_OPTIONS

if typing.TYPE_CHECKING:
    import numpy as np

    from dc_tf.data.storage.manifest import Dataset


@takes_arguments(query="queries")
def search(
    queries: Path | int | Sequence[Path | int],
    run: Path | None = None,
    features: Path | Sequence[Path] | None = None,
    data: Path | None = None,
    layer: str | None = None,
    *,
    k: int = 10,
    exact: bool = False,
    whiten: int = 256,
    output: Path | None = None,
    sheet: Path | None = None,
    model: Path | None = None,
    column: str | None = None,
) -> dict | None:
    """Finds the images of a collection that are nearest to some images.

    >>> near = dc_tf.search(["photos/cats/0.png", 7], "RUN", layer="conv4", k=3)
    >>> [(one["query"], one["rank"]) for one in near["neighbours"]][2:4]
    [('photos/cats/0.png', 3), ('7', 1)]
    >>> dc_tf.search(0, features="FEATURES", data="scenes", layer="conv4")["search"]
    'exact'

    Args:
        queries: image file, or row id of the collection, or several of them.
        run: run folder: features of its own network over its data set, made if they are missing.
        features: without `run`: output folder of `embed`, or `.npy`, `.npz`, Parquet or
            Arrow files with a row for each image: a file, a pattern, or a list.
        data: data set folder of `features`, needed for a sheet and for sources; with `run` only
            where it was moved.
        layer: of the network, such as conv13, fc7, block4_2 or pool; None takes the only one of
            `features`, or of `run` the one that `evaluate` has measured as the best.
        k: neighbours of each query.
        exact: compare with every row, also where there are more than a million.
        whiten: directions that the features are whitened to; 0 compares them as they are.
        output: table to write, .csv, .json or .parquet.
        sheet: picture to write, .jpg or .png, with a line for each query.
        model: run or SavedModel that made `features`, where it was moved since.
        column: of `features` in tables or archives, as of `kmeans`; None: the only one of vectors.

    Returns:
        dict of rows, layer, whitened, queries (their number), search (how; of an inverted file,
        with its recall), recall, and neighbours: a list of dict of query, rank, row, source and
        similarity (cosine). None on workers other than the chief.

    Raises:
        ConfigError: what cannot work; nothing was started.
        DataError: a query or data that cannot be used.
        Preempted: after Ctrl-C; features and parts of an index that are complete are kept.
    """
    from dc_tf.curation.search.find import search_and_write

    return search_and_write(
        queries_of(queries),
        path_or_none(run),
        paths_or_none(features),
        path_or_none(data),
        layer,
        k=k,
        exact=exact,
        whiten=whiten,
        output=path_or_none(output),
        sheet=path_or_none(sheet),
        model=path_or_none(model),
        column=column,
    )


@takes_arguments()
def find_duplicates(
    run: Path | None = None,
    features: Path | Sequence[Path] | None = None,
    data: Path | None = None,
    layer: str | None = None,
    output: Path | None = None,
    *,
    clusters: Path | None = None,
    dry_run: bool = False,
    threshold: float = 0.8,
    whiten: int = 256,
    pixels: bool = True,
    workers: int | None = None,
    k: int = 0,
    neighbours: int = 4,
    seed: int = 0,
    format: str = "parquet",
    groups: int = 100,
    overwrite: bool = False,
    column: str | None = None,
) -> dict | None:
    """Finds copies in a collection, and which image of each group to keep; deletes nothing.

    >>> copies = dc_tf.find_duplicates("RUN", output="COPIES")
    >>> dc_tf.open_dataset("COPIES/kept").rows == 96 - copies["would_go"]
    True

    Args:
        run: run folder, as of `search`.
        features: without `run`: features of the images, as of `search`.
        data: data set folder, as of `search`; without it only near copies are looked for.
        layer: as of `search`; of `run`, None takes conv9 (of a ResNet the last block2) in 2 x 2
            cells of image and mirror image, which finds copies best.
        output: folder for the table, the rows to keep, a view of them and a gallery.
        clusters: run, or output of `kmeans` over `features`, to look within its clusters; None
            makes some.
        dry_run: only count; without `output`.
        threshold: least cosine of near copies, above 0 and at most 1.
        whiten: directions that the features are whitened to; 0 compares them as they are.
        pixels: decode all images, to find equal pixels in different files.
        workers: processes that decode images; None: one for each core. More than one import the
            main module again, as of `convert`.
        k: clusters that are made; 0: one up to 32,768 rows, else the square root of their number.
        neighbours: clusters next to a row's own that it is compared with.
        seed: of the clusters that are made.
        format: of the table, "parquet" or "csv".
        groups: groups in the gallery.
        overwrite: replace a result of other settings in `output`.
        column: of `features`, as of `search`.

    Returns:
        dict of rows, groups, would_go, share, by_kind, below_threshold (copies of copies that are
        less like the one that stays), corrupt, clusters, dry_run and output. None on workers other
        than the chief.

    Raises:
        ConfigError: what cannot work; nothing was started.
        DataError: data that cannot be used.
        Preempted: after Ctrl-C; what was compared is kept in `output`.
    """
    from dc_tf.report.duplicates.run import find_and_write

    return find_and_write(
        path_or_none(run),
        paths_or_none(features),
        path_or_none(data),
        layer,
        clusters=path_or_none(clusters),
        output=path_or_none(output),
        dry_run=dry_run,
        threshold=threshold,
        whiten=whiten,
        pixels=pixels,
        workers=workers,
        k=k,
        neighbours=neighbours,
        seed=seed,
        format=format,
        groups=groups,
        overwrite=overwrite,
        column=column,
    )


@takes_arguments()
def curate(
    data: Path | Dataset | None = None,
    output: Path | None = None,
    target: int | None = None,
    *,
    features: Path | Sequence[Path] | None = None,
    run: Path | None = None,
    layer: str | None = None,
    clusters: Path | None = None,
    max_per_cluster: int | None = None,
    drop_outliers: float = 0.0,
    drop_sparsest: float = 0.0,
    drop_rarest: float = 0.0,
    where: str | Sequence[str] | None = None,
    rows: Path | np.ndarray | None = None,
    drop_rows: Path | np.ndarray | None = None,
    choice: str = "random",
    levels: Sequence[int] | None = None,
    rounds: int = 10,
    sample: int | None = None,
    iterations: int = COMMAND_OPTIONS.iterations,
    seed: int = 0,
    precision: str = COMMAND_OPTIONS.precision,
    normalize: bool = True,
    tree: Path | None = None,
    dry_run: bool = False,
    materialize: Path | None = None,
    format: str = "shards",
    overwrite: bool = False,
    timeout_s: float = 600.0,
    column: str | None = None,
) -> dict | None:
    """Chooses a part of a data set, balanced or by other rules, as a view that copies no image.

    >>> chosen = dc_tf.curate("scenes", "BALANCED", 24, features="features.npy", levels=[12, 3])
    >>> dc_tf.open_dataset("BALANCED").rows
    24
    >>> dc_tf.curate("scenes", "FIRST", rows=np.arange(10))["steps"]
    [{'rule': 'rows', 'rows': 10}]

    The rules act in this order: rows, drop_rows, where, drop_outliers, drop_sparsest, drop_rarest,
    max_per_cluster, target.

    Args:
        data: data set folder, or one of `open_dataset`; None with `run` takes the run's.
        output: folder of the view; None with `dry_run`, or to `materialize` alone.
        target: rows of the balanced subset: an even share of each branch of a tree of clusters
            (Vo et al. 2024).
        features: as of `search`.
        run: run folder, for features of its own network.
        layer: of a run, or of a folder with several layers.
        clusters: output of `kmeans`, or a run (its last round), in place of a tree.
        max_per_cluster: keep at most so many rows of a cluster.
        drop_outliers: drop this share of the rows, those farthest from their centroid.
        drop_sparsest: drop whole clusters of at most this share, the most spread out first.
        drop_rarest: drop whole clusters of at most this share, the smallest first.
        where: "meta/hashtag=sea", "class!=cat" or "meta/year>=1984"; of several, all have to hold.
        rows: keep these: array of row ids, `.npy` file, text file with one a line, or `.jsonl` file
            with {"row": 7} in each.
        drop_rows: drop these.
        choice: of a cluster, "random" rows or those "nearest" to its centroid.
        levels: clusters of each level of the tree, from the lowest on; None: by the number of rows.
        rounds: each level is clustered again so often, on equally many rows of every cluster.
        sample: rows of each cluster in these rounds; None: half the average size of a cluster.
        iterations: of each k-means.
        seed: of everything that is drawn.
        precision: of the products, "float32", "bfloat16", or "auto", which measures the faster; a
            tree that was begun keeps its type.
        normalize: scale every row of the features to length 1.
        tree: folder of the tree, made or used again; None: OUTPUT.tree.
        dry_run: only count.
        materialize: folder for a copy of the chosen images.
        format: of that copy, "shards" (a data set), "webdataset" (tar files) or "folder" (image
            files in a folder for each class).
        overwrite: replace what is in `output` and `materialize`.
        timeout_s: of several workers, seconds that one may be silent; 0: for ever.
        column: of `features`, as of `search`.

    Returns:
        dict of output, rows, of, steps (rows that each rule has left), corrupt, classes and
        clusters (how evenly rows are spread before and after) and materialized; None on workers
        other than the chief.

    Raises:
        ConfigError: a rule or setting that cannot work; nothing was started.
        DataError: data or features that cannot be used, or no row is left.
        Preempted: after Ctrl-C; what was done is saved.
    """
    from dc_tf.curation.selection.curate import curate as choose

    paths = {"output": output, "run": run, "clusters": clusters, "tree": tree}
    paths |= {"materialize": materialize, "data": data, "rows": rows, "drop_rows": drop_rows}
    return choose(
        **{name: os.fspath(p) if isinstance(p, os.PathLike) else p for name, p in paths.items()},
        features=features,
        layer=layer,
        target=target,
        max_per_cluster=max_per_cluster,
        drop_outliers=drop_outliers,
        drop_sparsest=drop_sparsest,
        drop_rarest=drop_rarest,
        where=tuple(several(where)) if where is not None else (),
        choice=choice,
        levels=None if levels is None else tuple(levels),
        rounds=rounds,
        sample=sample,
        iterations=iterations,
        seed=seed,
        precision=precision,
        normalize=normalize,
        dry_run=dry_run,
        format=format,
        overwrite=overwrite,
        timeout_s=timeout_s,
        column=column,
    )
