"""Which settings of two experiments give different results."""

from dc_tf.experiment.experiment import Experiment

# Settings without influence on results.
_FREE = (
    *("checkpoint_every", "keep_checkpoints", "keep_clusterings", "log_every", "threads"),
    "watchdog",
)


def differences(a: Experiment, b: Experiment) -> list[str]:
    """Settings in which two experiments give different results, as "name: this, that".

    The path of the data, how often to save, the number of threads, the cache in device memory and
    what workers send for the same gradients may differ.
    """
    first, second = (result_settings(e) for e in (a, b))
    names = sorted(first.keys() | second.keys())
    return [
        f"{name}: {first.get(name)}, {second.get(name)}"
        for name in names
        if first.get(name) != second.get(name)
    ]


def result_settings(experiment: Experiment) -> dict:
    """The settings that results depend on, flat, as in {"stages[0].epochs": 3}."""
    settings = experiment.as_dict()
    for name in _FREE:
        del settings[name]
    del settings["data"]["path"], settings["data"]["max_bad_share"]
    del settings["model"]["exchange"], settings["model"]["exchange_gbps"]
    for values, stage in zip(settings["stages"], experiment.stages, strict=True):
        values["clustering"] = stage.clustering.result_settings()
    return _flat(settings)


def _flat(value, name="") -> dict:
    """{"a": [{"b": 1}]} to {"a[0].b": 1}."""
    if isinstance(value, dict):
        parts = [_flat(v, f"{name}.{k}" if name else k) for k, v in value.items()]
    elif isinstance(value, (list, tuple)) and any(isinstance(v, dict) for v in value):
        parts = [_flat(v, f"{name}[{i}]") for i, v in enumerate(value)]
    else:
        return {name: list(value) if isinstance(value, tuple) else value}
    return {k: v for part in parts for k, v in part.items()}
