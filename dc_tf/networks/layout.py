"""Whether a network whose file has no lengths takes (b, 3, h, w) or (b, h, w, 3).

by_axes(("batch_size", "num_channels", "height", "width"))      # "channels_first"
by_trial("model.onnx", source, 224)                             # by what the network takes

A convolution takes one of them only; a mean over pixels takes both, and is then not guessed.
"""

import tensorflow as tf

from dc_tf.errors import ConfigError

FIRST, LAST = "channels_first", "channels_last"
_CHANNEL_NAMES = ("c", "ch", "channel", "channels", "num_channels", "in_channels", "rgb")
_SIDE_NAMES = ("h", "w", "height", "width", "image_height", "image_width", "image_size")


def by_axes(names) -> str | None:
    """The layout that the names of four axes state; None where they state none.

    Args:
        names: (4,) str, "" for an axis without a name.
    """
    axes = [name.lower() for name in names]
    if len(axes) != 4:
        return None
    first = axes[1] in _CHANNEL_NAMES or {*axes[2:]} <= {*_SIDE_NAMES}
    last = axes[3] in _CHANNEL_NAMES or {*axes[1:3]} <= {*_SIDE_NAMES}
    if first == last:
        return None
    return FIRST if first else LAST


def by_trial(path: str, source, size: int) -> str:
    """The only layout of which the network takes a black image.

    Args:
        path: for messages.
        source: network.Source.
        size: side of the image in pixels.

    Raises:
        ConfigError: the network takes both, or neither.
    """
    batch = source.input_shape[0] or 1
    shapes = {FIRST: [batch, 3, size, size], LAST: [batch, size, size, 3]}
    failures = {layout: _failure(source, shape) for layout, shape in shapes.items()}
    fit = [layout for layout, failure in failures.items() if not failure]
    if len(fit) == 1:
        return fit[0]
    reason = (
        "takes images as (b, 3, h, w) and as (b, h, w, 3), and axes without names do not say which"
        if fit
        else f"takes images of {size} pixels neither as (b, 3, h, w) nor as (b, h, w, 3): "
        f"{failures[FIRST]}"
    )
    raise ConfigError(
        f"{path} {reason}; give the layout, as in --preprocessing=imagenet,size={size},"
        f"layout={FIRST} (PyTorch's) or layout={LAST} (TensorFlow's)."
    )


def _failure(source, shape) -> str:
    """What the network raises for images of a shape; "" if it computes."""
    black = tf.zeros(shape, source.input_dtype)
    try:
        tf.function(source.function, autograph=False)(black, source.main_outputs)
    except Exception as error:  # what a network raises on a wrong shape is its own affair
        return (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return ""
