"""The protocol of a task, without a network."""

import math

from dc_tf.evaluation import tasks


def of_settings(task, config_files=(), params_override=()):
    """(module, protocol): the paper's protocol, unless the settings name another."""
    asked = tasks.read(task, config_files, params_override)
    return asked.module, asked.choose(images=math.inf).protocol
