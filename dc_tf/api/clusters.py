"""Shows clusters, writes them down, and assigns images to them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dc_tf.api.arguments import Path, path_or_none, takes_arguments


@takes_arguments(round="round_index")
def write_clusters(
    output: Path,
    run: Path | None = None,
    *,
    clusters: Path | None = None,
    data: Path | None = None,
    stage: str = "",
    round_index: int | None = None,
    format: str | None = None,
    workers: int | None = None,
) -> dict | None:
    """Writes which image is in which cluster: a table with a row per image.

    >>> made = dc_tf.write_clusters("clusters.parquet", clusters="CLUSTERS", data="scenes")
    >>> made["rows"], made["columns"][:4]
    (96, ['row', 'source', 'cluster', 'distance'])

    Args:
        output: file; its ending is .parquet, .csv or .json.
        run: run folder.
        clusters: without `run`: output folder of `kmeans`.
        data: data set that was clustered; with `run` only where it was moved.
        stage: of a run: its last clustering in this stage; "" for the last of all.
        round_index: of a run: index of the clustering in its stage; None for the last.
        format: "parquet", "csv" or "json"; None goes by the ending of `output`.
        workers: processes that read images; None: one per core. More than one import the main
            module again, as of `convert`.

    Returns:
        dict of output, rows, clusters, columns and corrupt_rows; None on workers other than the
        first.

    Raises:
        ConfigError: what cannot work; nothing was written.
        DataError: data that cannot be used.
        Preempted: after Ctrl-C; the same call resumes.
    """
    from dc_tf.curation.clusters.start import write_clusters as write

    return write(
        output,
        format,
        workers,
        run=run,
        clusters=clusters,
        data=data,
        stage=stage,
        round_index=round_index,
    )


@takes_arguments(round="round_index")
def assign(
    data: Path,
    output: Path,
    run: Path | None = None,
    *,
    clusters: Path | None = None,
    stage: str = "",
    round_index: int | None = None,
    features: Path | None = None,
    format: str | None = None,
    column: str | None = None,
) -> dict | None:
    """Assigns the images of a data set to the clusters of a run, or of `kmeans`.

    >>> new = dc_tf.assign("scenes", "new.parquet", clusters="CLUSTERS", features="features.npy")
    >>> new["rows"]
    96

    Args:
        data: data set with the images to assign.
        output: file; its ending is .parquet, .csv or .json.
        run: run folder that has kept its newest clusterings.
        clusters: without `run`: output folder of `kmeans`.
        stage: of a run: its last kept clustering in this stage; "" for the last of all.
        round_index: of a run: index of the clustering in its stage; None for the last.
        features: with `clusters` of vectors that `embed` has not made: the vectors of `data`.
        format: "parquet", "csv" or "json"; None goes by the ending of `output`.
        column: of `features`, as of `search`.

    Returns:
        dict of output, rows, clusters, columns and corrupt_rows; the columns are those of
        `write_clusters`. None on workers other than the chief.

    Raises:
        ConfigError: what cannot work; nothing was written.
        DataError: data that cannot be used.
        Preempted: after Ctrl-C; the same call resumes.
    """
    from dc_tf.curation.clusters.start import assign as assign_to_clusters

    return assign_to_clusters(
        data,
        output,
        format,
        run=run,
        clusters=clusters,
        stage=stage,
        round_index=round_index,
        features=features,
        column=column,
    )


@takes_arguments(round="round_index")
def browse(
    run: Path | None = None,
    *,
    clusters: Path | None = None,
    data: Path | None = None,
    stage: str = "",
    round_index: int | None = None,
    workdir: Path | None = None,
    features: Path | None = None,
    layer: str | None = None,
    model: Path | None = None,
    embed: bool = False,
    table: bool = True,
    host: str = "127.0.0.1",
    port: int = 0,
    allow_remote: bool = False,
    column: str | None = None,
) -> dict:
    """Shows clusters in a web browser on this machine until Ctrl-C; for scripts, not notebooks.

    >>> dc_tf.browse("RUN")["selections"]            # doctest: +SKIP
    {'blurred': 12}

    Args:
        run: run folder.
        clusters: without `run`: output folder of `kmeans`.
        data: data set that was clustered; with `run` only where it was moved.
        stage: of a run: its last clustering in this stage; "" for the last of all.
        round_index: of a run: index of the clustering in its stage; None for the last.
        workdir: folder for the index and selections; None: `browser` in that of the run or of the
            clusters.
        features: as of `search`, for search by example; None: those that the run has kept, or that
            were clustered.
        layer: of a run or `features` with several.
        model: run or model that made the features, where it was moved since.
        embed: of a run: make features at the start if there are none.
        table: make the table for search by text at the start if there is none.
        host: address to listen at.
        port: 0 for a free one.
        allow_remote: whether `host` may be one that other machines reach.
        column: of `features`, as of `search`.

    Returns:
        dict of workdir and selections, {name: number of rows}.

    Raises:
        ConfigError: what cannot work; nothing was started.
        DataError: data that cannot be used.
        Preempted: after Ctrl-C before it serves; the same call resumes.
    """
    from dc_tf.report.browser.serve import browse as serve
    from dc_tf.report.browser.site import Source

    source = Source(
        run=path_or_none(run),
        clusters=path_or_none(clusters),
        data=path_or_none(data),
        stage=stage,
        round_index=round_index,
        features=path_or_none(features),
        column=column,
        layer=layer,
        model=path_or_none(model),
        embed=embed,
        table=table,
    )
    return serve(source, path_or_none(workdir), host, port, allow_remote)


@takes_arguments(round="round_index")
def write_report(
    output: Path,
    run: Path | None = None,
    *,
    clusters: Path | None = None,
    data: Path | None = None,
    stage: str = "",
    round_index: int | None = None,
    compare: Sequence[Path] = (),
    random_init: bool = False,
    evaluations: Sequence[Path] = (),
    duplicates: Path | None = None,
    sheets: int = 120,
    max_rows: int = 100_000,
    max_mb: float = 25.0,
    overwrite: bool = False,
) -> dict:
    """Writes a report of a run, or of a clustering, as one HTML file that needs no network.

    >>> report = dc_tf.write_report("report.html", run="RUN")
    >>> report["rows"], report["bytes"] < 25e6
    (96, True)

    Args:
        output: HTML file.
        run: run folder.
        clusters: without `run`: output folder of `kmeans`.
        data: data set folder; with `run` only where it was moved.
        stage: of a run: clusters of this stage; "" for the last one.
        round_index: of a run: clustering of the stage; None for the last one.
        compare: run folders, or outputs of `kmeans`, of the same images to set beside it.
        random_init: of a run with up to 20,000 images: compare with clusters of an untrained
            network too.
        evaluations: JSON results of `evaluate` besides those in the run folder.
        duplicates: near-duplicates to show: output of `find_duplicates`, or a Parquet or CSV table
            with the columns row and group; None takes the newest output in the run folder.
        sheets: number of clusters whose images are shown.
        max_rows: images whose metadata is read; a sample of more.
        max_mb: largest size of the file; contact sheets are left out for it.
        overwrite: replace a file in `output` that is no report.

    Returns:
        dict of report (the path), bytes, rows, rows_read, clusters, clusters_shown, and left_out,
        sentences about what did not fit.

    Raises:
        ConfigError: what cannot work; nothing was written.
        DataError: data that cannot be used.
    """
    from dc_tf.report.build import make

    return make(
        output=os.fspath(output),
        run=path_or_none(run),
        clusters=path_or_none(clusters),
        data=path_or_none(data),
        stage=stage,
        round_index=round_index,
        compare=[os.fspath(one) for one in compare],
        random_init=random_init,
        evaluation_files=[os.fspath(one) for one in evaluations],
        duplicates=path_or_none(duplicates),
        sheets=sheets,
        max_rows=max_rows,
        max_mb=max_mb,
        overwrite=overwrite,
    )
