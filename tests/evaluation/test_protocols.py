"""Which settings a task runs with, and that files and code hold them once."""

import json
import os
import pathlib
import shutil
import tempfile
from unittest import mock

import devkit
import pictures
import pytest
import tensorflow as tf
from striped import call, write_model, write_stripes

from dc_tf.errors import ConfigError
from dc_tf.evaluation import protocols, tasks
from dc_tf.evaluation.finetune import task as finetune
from dc_tf.evaluation.frozen import knn
from dc_tf.evaluation.models import network_settings, open_model
from dc_tf.evaluation.run import choose
from dc_tf.evaluation.tasks import Request
from dc_tf.exporting import saved_model

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs" / "evaluation"
PAPERS = {"width": 1.0, "resolution": 224}
QUICKSTART = {"width": 0.25, "resolution": 48}
WITH_TWO = (*("finetune", "linear_probe", "retrieval", "voc07_classification", "voc07_detection"),)


def read(task, *overrides, files=(), wanted="auto"):
    return tasks.read(task, [str(CONFIGS / file) for file in files], list(overrides), wanted)


class ChooseTest(tf.test.TestCase):
    def test_network_and_data_decide(self):
        for task, network, images, name in (
            ("linear_probe", PAPERS, 1_281_167, "paper"),
            ("linear_probe", PAPERS, 128_117, "paper"),
            ("linear_probe", PAPERS, 128_116, "small"),
            ("linear_probe", QUICKSTART, 1_281_167, "small"),
            ("linear_probe", {"width": 0.5, "resolution": 158}, 1_281_167, "paper"),
            ("linear_probe", {"width": 0.49, "resolution": 158}, 1_281_167, "small"),
            ("linear_probe", {"width": 0.5, "resolution": 157}, 1_281_167, "small"),
            ("finetune", PAPERS, 1334, "small"),
            ("voc07_classification", PAPERS, 5_011, "paper"),
            ("voc07_detection", PAPERS, 292, "small"),
            ("retrieval", PAPERS, 0, "paper"),
            ("retrieval", QUICKSTART, 0, "small"),
        ):
            chosen = read(task).choose(network, images)
            self.assertEqual(chosen.name, name, (task, network, images))
            other = "small" if name == "paper" else "paper"
            self.assertIn(f"--protocol={other} ", chosen.alternative)

    def test_the_reason_names_what_decided(self):
        reason = read("finetune").choose(QUICKSTART, 1334).reason
        self.assertEqual(
            reason,
            "the network has 48 pixels and 0.25 of VGG-16's width; the paper's has 224 and 1",
        )
        reason = read("finetune").choose(PAPERS, 1334).reason
        self.assertEqual(reason, "there are 1,334 images; the paper has 1,281,167")
        reason = read("finetune").choose(PAPERS, 1_281_167).reason
        self.assertEqual(
            reason, "a network of 224 pixels and 1 of VGG-16's width on 1,281,167 images"
        )

    def test_settings_lie_over_those_of_the_protocol(self):
        chosen = read("finetune", "epochs=3,min_crop_area=0.5").choose(QUICKSTART, 1334)
        small = finetune.Protocol(**finetune.SMALL)
        self.assertEqual((chosen.protocol.epochs, chosen.protocol.min_crop_area), (3, 0.5))
        self.assertEqual(chosen.protocol.batch_size, small.batch_size)
        self.assertEqual(chosen.protocol.drops, small.drops)

    def test_a_flag_goes_before_sizes(self):
        chosen = read("finetune", wanted="paper").choose(QUICKSTART, 10)
        self.assertEqual((chosen.protocol, chosen.name), (finetune.Protocol(), "paper"))
        chosen = read("finetune", wanted="small").choose(PAPERS, 10**7)
        self.assertEqual(chosen.protocol, finetune.Protocol(**finetune.SMALL))
        self.assertEqual(chosen.name, "small")

    def test_a_file_goes_before_sizes_and_is_named(self):
        asked = read("linear_probe", files=["linear_probe_places205.yaml"])
        self.assertFalse(asked.is_open)
        chosen = asked.choose(QUICKSTART, 10)
        self.assertEqual((chosen.name, chosen.reason), ("file", "linear_probe_places205.yaml"))
        self.assertEqual(chosen.protocol.rates["conv1"], 0.003)
        self.assertTrue(chosen.protocol.augment)

    def test_what_does_not_go_together_is_refused(self):
        small = ["finetune_small.yaml"]
        for arguments, message in (
            (
                dict(task="finetune", wanted="large"),
                "--protocol is 'large'; use paper, small, auto",
            ),
            (
                dict(task="knn", wanted="small"),
                "--protocol is small, but knn has one protocol only",
            ),
            (
                dict(task="finetune", files=small, wanted="paper"),
                "finetune_small.yaml asks for small",
            ),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                read(**arguments)
        with self.assertRaisesRegex(ConfigError, "the setting protocol is 'big'"):
            read("finetune", "protocol=big")
        with self.assertRaisesRegex(ConfigError, "unknown setting 'epoch'"):
            read("finetune", "epoch=3")
        with self.assertRaisesRegex(ConfigError, "epochs is 0"):
            read("finetune", "epochs=0")

    def test_a_task_with_one_protocol_has_no_name_for_it(self):
        chosen = read("knn", "cells=1").choose(QUICKSTART, 10)
        self.assertEqual((chosen.protocol, chosen.name), (knn.Protocol(cells=1), ""))


class FilesTest(tf.test.TestCase):
    def test_small_files_are_the_small_protocols(self):
        files = sorted(path.name for path in CONFIGS.glob("*_small.yaml"))
        self.assertEqual(files, sorted(f"{task}_small.yaml" for task in WITH_TWO))
        for task in WITH_TWO:
            chosen = read(None, files=[f"{task}_small.yaml"]).choose(PAPERS, 10**9)
            self.assertEqual(chosen.name, "small")
            self.assertEqual(chosen.protocol, read(task, wanted="small").choose().protocol)
            self.assertNotEqual(chosen.protocol, read(task, wanted="paper").choose().protocol)

    def test_the_papers_protocols_are_those_of_its_files(self):
        for file, overrides in {
            "finetune_imagenet100.yaml": (),
            "linear_probe_imagenet.yaml": (),
            "linear_probe_voc07.yaml": ("train_split=trainval,test_split=test",),
            "voc07_classification_fc68.yaml": (),
            "voc07_classification_all.yaml": ("tune=all",),
            "voc07_detection_fc68.yaml": (),
            "voc07_detection_all.yaml": ("tune=all",),
        }.items():
            from_file = read(None, files=[file])
            chosen = read(from_file.task, *overrides, wanted="paper").choose()
            self.assertEqual(from_file.choose().protocol, chosen.protocol, file)
        # Of no consequence elsewhere: Paris6k has broken images, and conv13 has 512 channels.
        for file in ("retrieval_oxford5k.yaml", "retrieval_paris6k.yaml"):
            chosen = read("retrieval", "ignore_unreadable=true,dimensions=512", wanted="paper")
            self.assertEqual(read(None, files=[file]).choose().protocol, chosen.choose().protocol)

    def test_no_file_states_what_data_it_is_used_on(self):
        for path in CONFIGS.glob("*.yaml"):
            protocol = read(None, files=[path.name]).choose().protocol
            self.assertEqual(protocol.paper, "auto", path.name)


@pytest.mark.slow
class CommandTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        cls.train = write_stripes(os.path.join(cls.root, "train"), 24, seed=0)
        cls.test = write_stripes(os.path.join(cls.root, "test"), 12, seed=1)
        cls.model = write_model(os.path.join(cls.root, "model"))

    def evaluate(self, *flags):
        paths = [f"--model={self.model}", f"--train={self.train}", f"--test={self.test}"]
        return call("evaluate", *paths, *flags)

    def test_the_command_says_which_protocol_and_what_it_will_cost_before_it_begins(self):
        few = "--params_override=batch_size=8,epochs=2"
        code, out, err = self.evaluate("--task=linear_probe", "--layer=conv2,fc7", few)
        self.assertEqual(code, 0, err)
        first, second, *others = [line for line in err.splitlines() if line.startswith("linear_pr")]
        self.assertEqual(
            first,
            "linear_probe: protocol small: the network has 32 pixels and 0.0625 of VGG-16's width; "
            "the paper's has 224 and 1; --protocol=paper takes the paper's settings",
        )
        self.assertRegex(
            second,
            r"^linear_probe, protocol small: 24 and 12 images at 32 pixels, 2 epochs, trained and "
            r"random init: about \d+ s on this machine$",
        )
        self.assertEmpty(others)
        self.assertLess(err.index(second), err.index(": probes:"))
        result = json.loads(out.splitlines()[-1])
        self.assertEqual(result["protocol_name"], "small")
        self.assertEqual(result["protocol"]["epochs"], 2)
        self.assertFalse(result["protocol"]["augment"])
        self.assertGreater(result["estimated_s"], 0)
        self.assertNotIn("paper", out.replace("paper_dataset", "").partition("{")[0])

    def test_a_protocol_that_is_not_there_ends_with_wrong_usage(self):
        for flags, named in (
            (("--task=finetune", "--protocol=tiny"), "use paper, small, auto"),
            (("--task=knn", "--protocol=paper"), "knn has one protocol only"),
            (
                (f"--config_file={CONFIGS / 'finetune_small.yaml'}", "--protocol=paper"),
                "leave one of them out",
            ),
        ):
            code, out, err = self.evaluate(*flags)
            self.assertEqual((code, out), (2, ""), flags)
            self.assertIn(named, err)

    def test_sizes_of_networks_are_read_without_their_weights(self):
        with mock.patch.object(saved_model, "restore_trunk", side_effect=AssertionError):
            found = network_settings(self.model)
        self.assertEqual(found, open_model(self.model).trunk.settings)
        with self.assertRaisesRegex(ConfigError, "is a data set; use a SavedModel"):
            network_settings(self.train)

    def test_sizes_of_data_are_those_of_the_task(self):
        kit = devkit.draw(os.path.join(self.root, "kit"), {"trainval": 7, "train": 3, "test": 2})
        few = os.path.dirname(pictures.write(self.root, "folder/0.png", b"not opened"))

        def images(task, train, *overrides):
            asked = read(task, *overrides)
            with mock.patch.object(protocols.Asked, "choose") as chosen:
                choose(asked, Request(task, self.model, train=train))
            return chosen.call_args[0][1]

        self.assertEqual(images("finetune", self.train), 24)
        self.assertEqual(images("voc07_classification", kit), 7)
        self.assertEqual(images("voc07_detection", kit, "train_split=train"), 3)
        splits = "train_split=train,test_split=test"
        self.assertEqual(images("linear_probe", kit, splits), 3)
        self.assertEqual(images("retrieval", few), 0)
        self.assertEqual(images("finetune", None), 0)


if __name__ == "__main__":
    tf.test.main()
