"""Writes a model card, `README.md` in the folder of an exported model, from its metadata.

    write_model_card("/models/mine", metadata)

Names and settings may contain any text, so all of them are escaped for Markdown. Of paths, only the
last component is shown.
"""

import copy
import os
import re

import tensorflow as tf
import yaml

from dc_tf.exporting.input_range import rule
from dc_tf.nn.trunks import trunk_class

CARD = "README.md"
_MOST_CLASSES = 100  # that a card names

# Names in capitals are replaced.
_LOADING = """\
```python
import tensorflow as tf

model = tf.saved_model.load("FOLDER")
features = model(images)["LAST_MAP"]  # RGB, (b, h, w, 3)
```

```python
import tensorflow_hub as hub

layer = hub.KerasLayer("FOLDER", trainable=True, output_key="FEATURE")  # Keras 2, to be fine-tuned
```

```python
import keras

layer = keras.layers.TFSMLayer("FOLDER", call_training_endpoint="train")  # Keras 3
```
"""

_LOADING_CLASSIFIER = """\
```python
import tensorflow as tf

model = tf.saved_model.load("FOLDER")
found = model(images)  # RGB, (b, h, w, 3)
found["probabilities"], model.class_names()[found["prediction"][0]]
model.classify_files([open("image.jpg", "rb").read()])  # with the crop of the metrics
```

```python
import keras

layer = keras.layers.TFSMLayer("FOLDER", call_endpoint="serve")  # Keras 3
```
"""

_LICENCE = """\
None is stated here. Whoever publishes this model names one, and says under which terms its training
images could be used.
"""


def write_model_card(path: str, metadata) -> None:
    """Writes the card of an exported model.

    Args:
        path: folder of the model.
        metadata: metadata.Metadata.
    """
    with tf.io.gfile.GFile(os.path.join(path, CARD), "w") as f:
        f.write(model_card(metadata))


def model_card(metadata) -> str:
    """The card's Markdown."""
    source, classes = metadata.source, metadata.classes
    title = "An image classifier" if classes else "Visual features learned without labels"
    parts = [
        f"# {title}",
        _about(metadata),
        *_classes(classes),
        "## Loading",
        _loading(metadata) + f"\n{_preprocessing(metadata)}\n",
        "## Outputs",
        _table(("layer", "shape of one image"), _shapes(metadata.outputs)),
        "## Training data",
        _training_data(source),
        "## Training",
        _training(source),
        "## Figures" if classes else "## Last metrics of training",
        _metrics(source),
        "## Versions",
        _table(("package", "version"), metadata.versions.items()),
        "## Licence",
        _LICENCE,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def escape(text) -> str:
    """Text on one line, escaped so that Markdown and its tables show it without markup."""
    text = " ".join(str(text).split())
    text = re.sub(r"([\\`*_{}\[\]()#+\-.!|~>:@])", r"\\\1", text)
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _loading(metadata):
    if metadata.classes:
        return _LOADING_CLASSIFIER
    network = trunk_class(metadata.trunk)
    text = _LOADING.replace("LAST_MAP", network.map_names[-1])
    return text.replace("FEATURE", network.feature_layer)


def _classes(classes):
    if not classes:
        return []
    shown = ", ".join(map(escape, classes[:_MOST_CLASSES]))
    more = len(classes) - _MOST_CLASSES
    return ["## Classes", f"{len(classes)}: {shown}" + (f" and {more} more" if more > 0 else "")]


def _about(metadata):
    settings = metadata.settings
    sobel = "folded into the first convolution" if metadata.folded else "a fixed first stage"
    if not settings.get("sobel", True):
        sobel = "none, RGB"
    rows = [
        ("network", trunk_class(metadata.trunk).title),
        *((name, value) for name, value in settings.items() if name != "sobel"),
        ("Sobel", sobel),
        ("weights", metadata.weights),
    ]
    return "Exported by dc_tf: DeeperCluster (Caron et al. 2019) in TensorFlow.\n\n" + _table(
        ("", ""), rows
    )


def _preprocessing(metadata):
    accepted = escape(rule(metadata.input_range, typed=True))
    return (
        f"Images are {accepted}; other values are refused. Preprocessing is inside. In training, "
        f"images had the short side at {metadata.short_side} pixels, of which the centre "
        f"{metadata.settings['resolution']} were cut; other sizes are resized to that, without a "
        "crop."
    )


def _training_data(source):
    data = source.get("data") or {}
    if not data:
        return "Not known." + (" The weights were imported." if "checkpoint" in source else "")
    rows = [("name", _last_part(data["path"])), ("contents", data["fingerprint"])]
    return _table(("", ""), rows)


def _training(source):
    if "experiment" in source:
        settings = copy.deepcopy(source["experiment"])
        for place in (settings, settings.get("data", {})):
            for name in ("path", "init_from"):
                if place.get(name):
                    place[name] = _last_part(place[name])
        text = yaml.safe_dump(_plain(settings), sort_keys=False)
        taken = (
            f"after the stage {escape(source['stage'])}" if source.get("stage") else "at its end"
        )
        # An indented block, since text of a setting could end a fenced one.
        return f"The network is that of the run {taken}. Its settings:\n\n" + _indented(text)
    if "finetune" in source:
        model = _last_part(source["model"])
        return f"Fine-tuned from {escape(model)} on labels. Settings:\n\n" + _indented(
            yaml.safe_dump(_plain(source["finetune"]), sort_keys=False)
        )
    if "checkpoint" in source:
        rows = [("checkpoint", _last_part(source["checkpoint"])), ("SHA-256", source["sha256"])]
        return "Imported from PyTorch.\n\n" + _table(("", ""), rows)
    return "Not known."


def _metrics(source):
    values = source.get("metrics") or {}
    shown = [
        (name, f"{value:.6g}" if isinstance(value, float) else value)
        for name, value in values.items()
        if name not in ("event", "images_per_second", "input_wait")
    ]
    return _table(("metric", "value"), shown) if shown else "Not known."


def _shapes(outputs):
    return [(name, " x ".join(map(str, shape)) or "a number") for name, shape in outputs.items()]


def _table(head, rows):
    lines = [head, ("---",) * len(head), *(tuple(map(escape, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _indented(text):
    return "\n".join("    " + line for line in text.splitlines())


def _last_part(path):
    return os.path.basename(str(path).rstrip("/"))


def _plain(value):
    """Converts tuples to lists and keys to text, for yaml.safe_dump."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
