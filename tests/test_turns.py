import tempfile
import threading

import tensorflow as tf
from turns import Turns

SOON_S, NEVER_S = 20, 0.3


class TurnsTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())

    def entered(self):
        """Turns that has entered with others."""
        turns = Turns(self.folder)
        turns.enter(alone=False)
        return turns

    def entering(self, alone):
        """(turns, thread in which it enters)"""
        turns = Turns(self.folder)
        thread = threading.Thread(target=turns.enter, args=(alone,), daemon=True)
        thread.start()
        thread.join(NEVER_S)
        return turns, thread

    def test_several_are_in_at_once(self):
        self.entered()
        _, other = self.entering(alone=False)
        self.assertFalse(other.is_alive())

    def test_one_that_wants_to_be_alone_waits_for_all_others(self):
        first, second = self.entered(), self.entered()
        _, alone = self.entering(alone=True)
        first.leave()
        alone.join(NEVER_S)
        self.assertTrue(alone.is_alive())
        second.leave()
        alone.join(SOON_S)
        self.assertFalse(alone.is_alive())

    def test_nobody_enters_before_one_that_waits_to_be_alone_has_left(self):
        first = self.entered()
        turns, alone = self.entering(alone=True)
        _, later = self.entering(alone=False)
        self.assertTrue(later.is_alive())  # though the one that is in would share
        first.leave()
        alone.join(SOON_S)
        later.join(NEVER_S)
        self.assertEqual((alone.is_alive(), later.is_alive()), (False, True))
        turns.leave()
        later.join(SOON_S)
        self.assertFalse(later.is_alive())


if __name__ == "__main__":
    tf.test.main()
