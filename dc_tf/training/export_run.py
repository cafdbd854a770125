"""The network of a run as files for others.

export_run("/runs/mine", "/models/mine")
export_run("/runs/mine", "mine.keras", format="keras")
"""

from dc_tf.errors import ConfigError
from dc_tf.exporting.file_formats import ENDINGS, WEIGHTS, check_file, write_file
from dc_tf.exporting.input_range import AUTO, checked_range
from dc_tf.exporting.provenance import of_run
from dc_tf.exporting.saved_model import SOBEL_FORMS, check_output, export_saved_model
from dc_tf.training.checkpoint import load_trunk

SAVED_MODEL = "saved_model"


def export_run(
    workdir: str,
    output: str,
    format=SAVED_MODEL,
    sobel="layer",
    stage="",
    overwrite=False,
    input_range=AUTO,
) -> dict:
    """Writes a run's network, complete or not at all; `help(dc_tf.export)` describes it."""
    formats = (SAVED_MODEL, *ENDINGS)
    for name, value, choices in (("format", format, formats), ("sobel", sobel, SOBEL_FORMS)):
        if value not in choices:
            raise ConfigError(f"--{name} is {value!r}; use one of {', '.join(choices)}.")
    input_range = checked_range(input_range)
    if format in WEIGHTS and input_range != AUTO:
        raise ConfigError(
            f"--input_range is {input_range}, but weights take no images; leave it out."
        )
    if format == SAVED_MODEL:
        check_output(output, overwrite)
    else:
        check_file(output, format, overwrite)
    trunk, experiment = load_trunk(workdir, stage)
    about = {"export": output, "format": format, "sobel": sobel, "trunk": trunk.kind}
    if format != SAVED_MODEL:
        write_file(trunk, output, format, sobel, overwrite, input_range)
        return about | {"settings": trunk.settings}
    metadata = export_saved_model(
        trunk,
        output,
        sobel,
        weight_decay=experiment.stages[-1].optimizer.weight_decay,
        short_side=experiment.data.resize or None,
        source=of_run(workdir, stage, experiment),
        overwrite=overwrite,
        input_range=input_range,
    )
    return about | {"settings": metadata.settings, "outputs": metadata.outputs}
