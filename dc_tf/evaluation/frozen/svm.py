"""Many linear SVMs at a time, one process for each core.

    for place, classes in classify_all(problems, unknown, cost=1.0, processes=8): ...

The processes import this module, so it does without TensorFlow. They are processes rather than
threads because liblinear draws from one generator for the whole process: threads would change the
results.
"""

from collections.abc import Iterable, Iterator

import numpy as np

_SEED = 0  # of the order in which the solver visits images


def classify(features, labels, unknown, cost) -> np.ndarray:
    """Fits an SVM to (n, d) features and (n,) labels; predicts (t,) classes of (t, d) `unknown`."""
    from sklearn import svm  # takes seconds to import

    model = svm.LinearSVC(C=cost, dual=True, max_iter=10_000, random_state=_SEED)
    return model.fit(features, labels).predict(unknown)


def classify_all(problems: Iterable, unknown, cost, processes: int) -> Iterator[tuple]:
    """Yields (place, (t,) predicted classes) of each problem, in order.

    Args:
        problems: of (place, (n, d) features, (n,) labels); consumed lazily.
        unknown: (t, d) features to classify.
        cost: C of the SVM.
        processes: how many; 1 uses this process.
    """
    if processes == 1:
        for place, features, labels in problems:
            yield place, classify(features, labels, unknown, cost)
        return
    import joblib

    parallel = joblib.Parallel(processes, backend="loky", return_as="generator")
    # Arrays of more than a megabyte, such as `unknown`, are shared through a file.
    yield from parallel(
        joblib.delayed(_placed)(place, features, labels, unknown, cost)
        for place, features, labels in problems
    )


def end_processes() -> None:
    """Ends the processes, which otherwise wait for further work for minutes."""
    from joblib.externals import loky

    loky.get_reusable_executor().shutdown(wait=True)


def _placed(place, features, labels, unknown, cost):
    return place, classify(features, labels, unknown, cost)
