"""Steps on a user's network: from measured or assumed computing, as text and as JSON."""

import dataclasses

import tensorflow as tf

from dc_tf.experiment import load
from dc_tf.planning.network import Network, predictions
from dc_tf.planning.plan import Rates, make_plan
from dc_tf.planning.report import as_dict, as_text

EXPERIMENT = load(["deepercluster_yfcc100m"], ["data.path=x"])
NETWORK = Network(gbps=100.0, latency_us=20.0)
MEASURED = Rates({0: 6400.0}, "measured here", without_exchanges=True)


def plan(on_gpu=True):
    return make_plan(EXPERIMENT, 96_000_000, 64, on_gpu)


class NetworkTest(tf.test.TestCase):
    def predictions(self, network=NETWORK, on_gpu=True, speed=None):
        return predictions(EXPERIMENT.model, plan(on_gpu).stages[0], network, on_gpu, speed)

    def test_measured_computing_is_used_where_there_is_any(self):
        (found,) = self.predictions(speed=6400.0)
        self.assertEqual(found.source, "measured")
        self.assertAllClose(found.cost.compute_s, 3072 / 6400)
        self.assertAllClose(found.images_per_s, 3072 / found.cost.step_s)
        self.assertLess(found.images_per_s, 6400)

    def test_gpus_are_assumed_and_cpus_are_not(self):
        self.assertEqual([one.source for one in self.predictions()], ["A100", "H100"])
        self.assertEmpty(self.predictions(on_gpu=False))

    def test_a_faster_network_makes_the_step_shorter_until_computing_limits_it(self):
        steps = [
            self.predictions(dataclasses.replace(NETWORK, gbps=gbps), speed=6400.0)[0].cost
            for gbps in (1, 100, 10_000)
        ]
        self.assertGreater(steps[0].step_s, 2 * steps[1].step_s)
        self.assertGreater(steps[1].step_s, steps[2].step_s)
        self.assertEqual((steps[0].limit, steps[2].limit), ("the wire", "computing"))

    def test_without_a_latency_it_is_that_of_gpus_or_of_the_measured_cpus(self):
        network = Network(gbps=10.0)
        for on_gpu, latency_s, text in ((True, 20e-6, "20"), (False, 2.1e-3, "2,100")):
            self.assertAllClose(network.machine(on_gpu).wire_latency_s, latency_s)
            self.assertEqual(network.text(on_gpu), f"10 Gb/s and {text} us")
            self.assertEqual(network.machine(on_gpu).wire_bytes_per_s, 1.25e9)

    def test_the_report_has_a_line_for_each_prediction(self):
        text = as_text(plan(), network=NETWORK)
        self.assertEqual(text.count("at 100 Gb/s and 20 us, computing as assumed of"), 2)
        self.assertIn("computing as measured", as_text(plan(), MEASURED, NETWORK))
        self.assertNotIn("Gb/s", as_text(plan()))
        (first, second) = as_dict(plan(), network=NETWORK)["stages"][0]["network"]
        self.assertEqual((first["computing"], second["computing"]), ("A100", "H100"))
        self.assertGreater(second["images_per_second"], first["images_per_second"])
        self.assertEqual(as_dict(plan())["stages"][0]["network"], [])

    def test_what_is_not_known_is_said(self):
        self.assertIn("not known; --measure", as_text(plan(on_gpu=False), network=NETWORK))
        together = dataclasses.replace(MEASURED, without_exchanges=False)
        text = as_text(plan(on_gpu=False), together, NETWORK)
        self.assertIn("have exchanges of their own", text)


if __name__ == "__main__":
    tf.test.main()
