"""What the machine says about its memory."""

import os
import pathlib
from unittest import mock

import tensorflow as tf

from dc_tf import memory


class MemoryTest(tf.test.TestCase):
    def test_the_memory_of_gpus_is_what_the_driver_says(self):
        folder = self.get_temp_dir()
        script = pathlib.Path(folder, "nvidia-smi")
        script.write_text(
            '#!/bin/sh\ncase $1 in *total*) echo 81559;; *) printf "400\\n390\\n";; esac\n'
        )
        script.chmod(0o755)
        with mock.patch.dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}"):
            self.assertEqual(memory.gpu_memory(), [400 << 20, 390 << 20])
            self.assertEqual(memory.gpu_memory("total"), [81559 << 20])
            script.write_text("#!/bin/sh\nexit 9\n")
            self.assertEqual(memory.gpu_memory(), [])

    def test_host_memory_is_no_more_than_a_control_group_leaves(self):
        self.assertGreater(memory.free_memory(), 1 << 20)
        folder = pathlib.Path(self.get_temp_dir())
        limit, used = folder / "max", folder / "current"
        limit.write_text("5000\n")
        used.write_text("2000\n")
        with mock.patch.object(memory, "_CGROUPS", ((limit, used),)):
            self.assertEqual(memory.free_memory(), 3000)
            limit.write_text("max\n")
            self.assertGreater(memory.free_memory(), 1 << 20)


if __name__ == "__main__":
    tf.test.main()
