"""An error of one worker ends all workers, each with a message of its own."""

import tensorflow as tf
import workers

from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.errors import ConfigError, DataError, RaisedOnAll


def _failing_on(world, errors):
    """(kind of error, message, result) that leaves `raise_on_all` on this worker."""
    try:
        with raise_on_all(world):
            if errors[world.rank]:
                raise errors[world.rank]
    except RaisedOnAll as error:
        kind = "config" if isinstance(error, ConfigError) else "data"
        return kind, str(error), getattr(error, "result", None)
    return None


class CollectiveErrorsTest(tf.test.TestCase):
    def test_an_error_of_one_is_raised_on_all(self):
        own, other = workers.on_workers(2, _failing_on, (None, DataError("no shard 3", {"a": 1})))
        self.assertEqual(own, ("data", "worker 1 failed; see its log.", None))
        self.assertEqual(other, ("data", "no shard 3", {"a": 1}))

    def test_of_two_errors_each_worker_raises_its_own(self):
        errors = ConfigError("k is 0"), DataError("no shard 3")
        found = workers.on_workers(2, _failing_on, errors)
        self.assertEqual(found, [("config", "k is 0", None), ("data", "no shard 3", None)])

    def test_without_an_error_nothing_is_raised(self):
        self.assertEqual(workers.on_workers(2, _failing_on, (None, None)), [None, None])


if __name__ == "__main__":
    tf.test.main()
