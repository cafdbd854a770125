"""Every super-class is served, by neighbours, and evenly, at any worker count that is allowed."""

import tensorflow as tf

from dc_tf.distributed.topology import Topology
from dc_tf.errors import ConfigError


class TopologyTest(tf.test.TestCase):
    def test_every_super_class_is_served_by_the_same_number_of_workers(self):
        for workers, supers in [(1, 16), (2, 16), (16, 16), (64, 16), (4, 4), (8, 4), (3, 12)]:
            topology = Topology(workers, supers)
            servers = {s: [] for s in range(supers)}
            for rank in range(workers):
                for s in topology.served(rank):
                    servers[s].append(rank)
            for ranks in servers.values():
                self.assertLen(ranks, topology.workers_per_super_class)
                for rank in ranks:
                    self.assertEqual(topology.sharers(rank), tuple(ranks))
                    self.assertEqual(ranks[topology.position(rank)], rank)

    def test_the_paper_has_four_workers_a_super_class_and_192_images(self):
        topology = Topology(64, 16)
        self.assertEqual(topology.sharers(7), (4, 5, 6, 7))
        self.assertEqual(topology.images_per_super_class(3072), 192)

    def test_an_uneven_worker_count_is_refused_with_the_nearest_that_work(self):
        with self.assertRaisesRegex(ConfigError, "6 workers .* 16 super-classes.*4 or 8"):
            Topology(6, 16)
        with self.assertRaisesRegex(ConfigError, "4 or 8"):
            Topology(5, 4)
        with self.assertRaisesRegex(ConfigError, "3 workers .*2 or 4"):
            Topology(3, 4)

    def test_a_batch_that_does_not_split_is_refused_with_one_that_does(self):
        with self.assertRaisesRegex(ConfigError, "batch_size=100 .*multiple of 8.*104"):
            Topology(8, 4).images_per_super_class(100)


if __name__ == "__main__":
    tf.test.main()
