"""No setting of an evaluation takes a number that it cannot hold."""

import dataclasses
import importlib
import math
import os
from unittest import mock

import tensorflow as tf

from dc_tf.errors import ConfigError
from dc_tf.evaluation import tasks
from dc_tf.evaluation.task_names import TASKS

NEVER = ("-1", "true", ".nan", ".inf", "1e39", "x", "[-1]", f"{10**400}")
NEVER_INTEGERS = (*NEVER, "1.5", "2147483648", "9223372036854775808")


class SettingsOfTasksTest(tf.test.TestCase):
    def test_numbers_that_a_setting_cannot_hold_are_refused(self):
        tried = 0
        for task, module in TASKS.items():
            for field in dataclasses.fields(importlib.import_module(module).Protocol):
                if field.type in (int, float):
                    for value in NEVER_INTEGERS if field.type is int else NEVER:
                        if (field.name, value) != ("init_bias", "-1"):  # which may be negative
                            self.refuse(task, field.name, value)
                            tried += 1
        self.assertGreater(tried, 300)

    def refuse(self, task, name, value):
        with self.assertRaisesRegex(ConfigError, name, msg=f"{task}: {name}={value}"):
            tasks.read(task, [], [f"{name}={value}"]).choose(images=math.inf)

    def test_paths_start_at_home_where_they_start_with_a_tilde(self):
        with mock.patch.dict(os.environ, HOME="/home/me"):
            for task, name in [("finetune", "workdir"), ("knn", "scratch")]:
                chosen = tasks.read(task, [], [f"{name}=~/x"]).choose(images=math.inf)
                self.assertEqual(getattr(chosen.protocol, name), "/home/me/x")


if __name__ == "__main__":
    tf.test.main()
