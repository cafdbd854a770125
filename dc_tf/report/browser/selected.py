"""The rows that a form selects: single ones, and all of clusters.

rows_of({"row": ["7"], "rows": ["1,2"], "cluster": ["12"], "clusters": ["3,4"]}, site)
"""

import numpy as np

from dc_tf.errors import ConfigError
from dc_tf.report.browser.overview import whole


def rows_of(form: dict, site) -> np.ndarray:
    """(n,) int64 row ids, in any order, repeats possible.

    Args:
        form: {name: list of texts}: `row` and `cluster` have a number each, `rows` and `clusters`
            numbers with commas between them.
        site: Site.

    Raises:
        ConfigError: what is no row or cluster.
    """
    rows = _numbers(form, "row", site.dataset.rows)
    clusters = _numbers(form, "cluster", site.index.count)
    members = [site.index.members(cluster) for cluster in sorted(set(clusters))]
    return np.concatenate([np.array(rows, np.int64), *members])


def _numbers(form, name, count):
    texts = [*form.get(name, []), *",".join(form.get(f"{name}s", [])).split(",")]
    numbers = [whole(text) for text in texts if text]
    if any(number is None or number >= count for number in numbers):
        raise ConfigError(f"the form has a {name} that is not there; {name}s are 0..{count - 1}.")
    return numbers
