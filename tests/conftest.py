"""Settings that must stand before TensorFlow is imported, which tests run, and in which order."""

import os
import pathlib
import shutil
import tempfile

import processors
import pytest
import turns

# A setting from outside wins.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
# The workers of a test would fight over a GPU; CUDA_VISIBLE_DEVICES=0 launch/test.sh lends it.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# On a large machine the default, all cores for each of several processes, is slower.
for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, str(max(2, min(4, os.cpu_count() or 1))))
# A cluster or preset of the shell that started the tests is not theirs.
os.environ.pop("TF_CONFIG", None)


TESTS = pathlib.Path(__file__).parent
# Folders and files of tests by how long their classes take; what is in none comes last.
LONG = (
    *(
        "test_two_stacks.py",
        "training",
        "launch",
        "sweep",
        "test_resnet_commands.py",
        "evaluation",
        "test_api.py",
    ),
    *("test_wheel.py", "exporting", "curation", "commands", "planning", "clustering", "data", ""),
)
_TURNS, _STAYS = pytest.StashKey(), pytest.StashKey()


def pytest_addoption(parser):
    kinds = "; ".join(f"{name}: {kind.about}" for name, kind in processors.KINDS.items())
    parser.addoption("--processor", choices=processors.KINDS, help=f"as on another one ({kinds})")


def pytest_configure(config):
    if kind := _kind(config):
        os.environ.update(kind.environment)
    import dc_tf  # noqa: F401  chooses kernels, before any test imports TensorFlow

    if not hasattr(config, "workerinput"):  # not a process of pytest-xdist, which inherits these
        os.environ["DC_TF_TEST_FOLDER"] = folder = tempfile.mkdtemp()
        config.add_cleanup(lambda: shutil.rmtree(folder))
    config.stash[_TURNS] = turns.Turns(os.environ["DC_TF_TEST_FOLDER"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Waits before what a class sets up, and ends a turn after what it takes down."""
    own = item.config.stash[_TURNS]
    alone, next_alone = (i is not None and _is_alone(i) for i in (item, nextitem))
    if not item.config.stash.get(_STAYS, False):
        own.enter(alone)
    try:
        return (yield)
    finally:
        item.config.stash[_STAYS] = alone and next_alone
        if not item.config.stash[_STAYS]:
            own.leave()


def pytest_collection_modifyitems(config, items):
    kind = _kind(config)
    kept, left_out = [], []
    for item in items:
        # tf.test.TestCase has a method `test_session` for its users, which unittest takes for one.
        no_test = item.name == "test_session"
        impossible = kind is not None and not kind.bfloat16 and _multiplies_bfloat16(item)
        (left_out if no_test or impossible else kept).append(item)
    config.hook.pytest_deselected(items=left_out)
    # What takes long begins first, so that two processes end at about the same time.
    items[:] = sorted(kept, key=lambda item: LONG.index(_folder(item)))


def _folder(item):
    name = item.path.relative_to(TESTS).parts[0]
    return name if name in LONG else ""


def _is_alone(item):
    return item.get_closest_marker("alone") is not None


def _kind(config):
    return processors.KINDS.get(config.getoption("--processor"))


def _multiplies_bfloat16(item):
    """By its name, as a case of a parameterized test, or marked so."""
    parameters = getattr(getattr(item, "function", None), "__x_params_repr__", "")
    named = "bfloat16" in item.name or "bfloat16" in parameters
    return named or item.get_closest_marker("bfloat16") is not None
