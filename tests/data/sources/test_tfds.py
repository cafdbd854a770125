"""TensorFlow data sets as a source, with a tiny one that is made here."""

import os

import pictures
import tensorflow as tf
import tensorflow_datasets as tfds

from dc_tf.data.convert import convert
from dc_tf.data.sources.tfds import TfdsSource, split_name
from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """Twelve pictures to train on, five to test on."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            "camera": tfds.features.Text(),
            "place": tf.float32,
            "mask": tfds.features.Image(shape=(None, None, 3)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 12), "test": self._generate_examples(50, 55)}

    def _generate_examples(self, first, stop):
        for number in range(first, stop):
            path = os.path.join(self._data_dir_root, f"{number}.png")
            with open(path, "wb") as file:
                file.write(pictures.encoded(number))
            yield (
                number,
                {
                    "image": path,
                    "label": number % 2 if number % 5 else -1,
                    "camera": f"K{number}",
                    "place": number / 2,
                    "mask": path,
                },
            )


class TfdsTest(tf.test.TestCase):
    def test_a_split_becomes_a_data_set_without_decoding(self):
        folder, output = self.get_temp_dir(), os.path.join(self.get_temp_dir(), "out")
        result = convert(
            "tfds:tiny_pictures:test", output, workers=1, tfds_data_dir=folder, progress=False
        )
        self.assertEqual((result["rows"], result["rejected"], result["classes"]), (5, 0, 2))
        self.assertEqual(Dataset.open(output).class_names, ("cat", "dog"))
        found = {e["meta"]["camera"]: e for e in pictures.examples(output)}
        self.assertCountEqual(found, [f"K{number}" for number in range(50, 55)])
        for number in range(50, 55):
            example = found[f"K{number}"]
            self.assertEqual(example["encoded"], pictures.encoded(number))
            self.assertEqual(example["label"], number % 2 if number % 5 else None)
            self.assertEqual(example["meta"], {"camera": f"K{number}", "place": number / 2})
            self.assertStartsWith(example["source"], "tiny_pictures-test.tfrecord")

    def test_the_order_is_fixed_and_resumes_behind_any_place(self):
        source = TfdsSource("tfds:tiny_pictures", self.get_temp_dir())
        self.assertEqual(source.total, 12)
        items = list(source.items())
        self.assertLen({item.name for item in items}, 12)
        again = TfdsSource("tfds:tiny_pictures:train", self.get_temp_dir())
        self.assertEqual(list(again.items(items[4].place)), items[5:])
        self.assertEqual(again.identity, source.identity)
        part = TfdsSource("tfds:tiny_pictures:train[:25%]", self.get_temp_dir())
        self.assertEqual([item.name for item in part.items()], [item.name for item in items[:3]])
        self.assertNotEqual(part.identity, source.identity)

    def test_what_is_missing_is_reported_with_what_exists(self):
        for name, message in [
            ("tfds:no_such_pictures", "no TensorFlow data set 'no_such_pictures'"),
            ("tfds:tiny_pictures:validation", "no split 'validation'; it has .*train"),
            ("tfds:", "tfds:NAME"),
        ]:
            with self.assertRaisesRegex(ConfigError, message):
                TfdsSource(name, self.get_temp_dir())

    def test_names_may_have_versions_configurations_and_parts(self):
        for text, expected in [
            ("tfds:cifar10", ("cifar10", "train")),
            ("tfds:cifar10:test", ("cifar10", "test")),
            ("tfds:mnist:3.0.1", ("mnist:3.0.1", "train")),
            ("tfds:mnist:3.*.*:test[:10%]", ("mnist:3.*.*", "test[:10%]")),
            ("tfds:imagenet_v2/matched-frequency:test", ("imagenet_v2/matched-frequency", "test")),
            ("tfds:a:train+test", ("a", "train+test")),
        ]:
            self.assertEqual(split_name(text), expected)


if __name__ == "__main__":
    tf.test.main()
