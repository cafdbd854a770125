"""Cost of the experiment, in seconds where rates were measured.

for text in lines(plan, rate, rates): ...
"""

from collections.abc import Iterator

from dc_tf.memory import size
from dc_tf.planning.exchange import ring


def lines(plan, rate, rates) -> Iterator[str]:
    """Sentences about the cost of a plan.

    Args:
        plan: planning.plan.Plan.
        rate: network.Rate of all workers, or None where it was not measured.
        rates: planning.plan.Rates.
    """
    yield (
        f"each worker needs at least {size(plan.host_bytes)} of host memory, "
        f"{size(plan.device_bytes)} of GPU memory, {size(plan.scratch_bytes)} of scratch disk; "
        f"the run folder {size(plan.shared_bytes)}"
    )
    for index, stage in enumerate(plan.stages):
        text = f"stage {index} ({stage.stage.name}): {stage.steps_per_epoch:,} steps an epoch, "
        text += f"{stage.steps:,} in all"
        if plan.workers > 1:
            text += _messages(stage, rate)
        speed = rates.images_per_s.get(index)
        if speed:
            epoch = stage.steps_per_epoch * stage.batch.batch_size / speed
            text += f"; {epoch:,.0f} s an epoch at this run's {speed:,.0f} images a second"
        yield text


def _messages(stage, rate):
    # What a sum over all workers of that size would send.
    step = stage.size.sent_bytes / ring(1, stage.batch.topology.workers)
    sizes = {"a step": int(step), "an iteration": stage.iteration_bytes}
    sizes = {when: count for when, count in sizes.items() if count}
    parts = []
    for when, count in sizes.items():
        seconds = f" ({rate.seconds(count):.3g} s as measured)" if rate else ""
        parts.append(f"{size(count)} {when}{seconds}")
    return f"; all-reduce of {', '.join(parts)}, if it does not overlap with computation"
