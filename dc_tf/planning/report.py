"""A plan as text and as JSON.

print(as_text(plan, rates_of(run)))
json.dumps(as_dict(plan, network=Network(gbps=10, latency_us=20)))
"""

from dc_tf.memory import size
from dc_tf.planning.network import Network, predictions
from dc_tf.planning.plan import Plan, Rates, StagePlan

# Groups of workers listed before the list is shortened.
_SHOWN_GROUPS = 4


def as_text(
    plan: Plan,
    rates: Rates = Rates(),  # noqa: B008
    network: Network | None = None,
) -> str:
    """The plan as lines of text, with the steps on a network if one is given."""
    lines = [
        ("data set", f"{plan.rows:,} images"),
        ("workers", f"{plan.workers}, each on {'one GPU' if plan.on_gpu else 'CPUs'}"),
    ]
    for index, stage in enumerate(plan.stages):
        lines += _stage_lines(index, stage, rates)
        if network:
            lines += [("", f"  {text}") for text in _network_lines(index, plan, rates, network)]
    lines += [
        (
            "checkpoints",
            f"every {plan.checkpoint_every:,} steps, after each round and each stage; the newest "
            f"{plan.keep_checkpoints} and those at the ends of stages are kept",
        ),
        *_kept_lines(plan),
        ("all steps", f"{plan.steps:,}"),
        ("memory", f"at least {size(plan.host_bytes)} of the host for each worker"),
    ]
    if plan.on_gpu:
        lines.append(("GPU memory", f"at least {size(plan.device_bytes)} for each worker"))
    lines += [
        ("scratch disk", f"{size(plan.scratch_bytes)} for each worker (DC_TF_SCRATCH)"),
        ("run folder", f"up to {size(plan.shared_bytes)}, shared by all"),
    ]
    return "\n".join(f"{name:<13} {value}" for name, value in lines)


def as_dict(
    plan: Plan,
    rates: Rates = Rates(),  # noqa: B008
    network: Network | None = None,
) -> dict:
    """The plan, JSON-ready; sizes in bytes, of one worker unless the name says otherwise."""
    return {
        "rows": plan.rows,
        "workers": plan.workers,
        "steps": plan.steps,
        "memory_bytes": plan.host_bytes,
        "gpu_memory_bytes": plan.device_bytes,
        "scratch_bytes": plan.scratch_bytes,
        "shared_bytes": plan.shared_bytes,
        "stages": [
            _stage_dict(i, stage, rates)
            | {"network": [p.as_dict() for p in _predictions(i, plan, rates, network)]}
            for i, stage in enumerate(plan.stages)
        ],
        "measured": _measured_dict(rates) if rates.seconds else None,
    }


def seconds_of(index: int, plan: StagePlan, rates: Rates) -> float | None:
    """Seconds of training for all epochs of a stage; None if its speed was not measured."""
    speed = rates.images_per_s.get(index)
    return plan.steps * plan.batch.batch_size / speed if speed else None


def _stage_lines(index, plan, rates):
    stage, batch = plan.stage, plan.batch
    yield (
        f"stage {index}",
        f"{stage.name}: {stage.epochs} epochs of {plan.steps_per_epoch:,} steps; a step has "
        f"{batch.batch_size:,} images, {batch.per_worker} of each worker",
    )
    if stage.views.count > 1:
        yield "", f"  {_views_text(stage.views)}"
    yield from (("", f"  {text}") for text in _topology_lines(plan))
    if stage.clustered:
        yield "", f"  {_clustering_text(plan)}"
    if plan.bank.shared_bytes:
        yield (
            "",
            "  the first clustering extracts, later ones take the features of training steps: a "
            f"bank of up to {size(plan.bank.shared_bytes)} in the run folder",
        )
    if stage.has_prototypes:
        held = 4 * plan.size.prototype_weights
        yield "", f"  prototypes of a worker: {size(held)}, not trained and in no checkpoint"
    if batch.topology.workers > 1:
        yield "", f"  {_exchange_text(plan)}"
    yield "", f"  {_time_text(index, plan, rates)}"


def _kept_lines(plan):
    largest = max(stage.kept_clustering_bytes for stage in plan.stages)
    if plan.kept_clusterings and largest:
        yield (
            "clusterings",
            f"the newest {plan.kept_clusterings} keep centroids, whitening and network, "
            f"{size(largest)} each",
        )


def _topology_lines(plan):
    groups = plan.groups
    shown = groups if len(groups) <= _SHOWN_GROUPS else [*groups[: _SHOWN_GROUPS - 1], groups[-1]]
    for number, (ranks, classes) in enumerate(shown):
        if number == _SHOWN_GROUPS - 1 and len(groups) > _SHOWN_GROUPS:
            yield "..."
        workers = f"worker{'s' if len(ranks) > 1 else ''} {_span(ranks)}"
        yield f"{workers}: super-class{'es' if len(classes) > 1 else ''} {_span(classes)}"


def _views_text(views):
    text = f"{views.count} views of each image: {views.global_views} global"
    if views.local_views:
        text += f", {views.local_views} local of {views.local_size} pixels"
    return text


def _clustering_text(plan):
    stage, cost = plan.stage, plan.clustering
    problem = cost.problem
    text = f"{stage.rounds} clusterings, every {stage.reassign_every} epochs, into {stage.clusters}"
    if stage.sub_clusters:
        text += f" x {stage.sub_clusters:,}"
    return (
        f"{text} clusters of {problem.dim} components; a worker extracts {problem.own_rows:,} "
        f"images and keeps {size(cost.store_bytes)} of features"
    )


def _exchange_text(plan):
    sent = plan.size
    text = f"exchange: a worker sends {size(sent.sent_bytes)} a step"
    if sent.factored:
        text += f", {', '.join(sent.factored)} as factors"
    if sent.sent_bytes != sent.sent_as_gradients:
        text += f" ({size(sent.sent_as_gradients)} as float32 gradients)"
    if plan.iteration_bytes:
        text += f"; it sums {size(plan.iteration_bytes)} in an iteration of k-means"
    return text


def _predictions(index, plan, rates, network):
    if network is None:
        return []
    speed = rates.images_per_s.get(index) if rates.without_exchanges else None
    return predictions(plan.model, plan.stages[index], network, plan.on_gpu, speed)


def _network_lines(index, plan, rates, network):
    found = _predictions(index, plan, rates, network)
    title = f"at {network.text(plan.on_gpu)}"
    if not found:
        why = "the measured steps have exchanges of their own"
        if not rates.images_per_s:
            why = "what a worker computes is not known; --measure it in a process alone"
        yield f"{title}: unknown, since {why}"
    for one in found:
        cost = one.cost
        known = "as measured" if one.source == "measured" else f"as assumed of {one.source}"
        yield (
            f"{title}, computing {known}: a step of {cost.step_s:.3g} s, "
            f"{one.images_per_s:,.4g} images a second, efficiency {cost.efficiency:.0%}; "
            f"{cost.waiting_s:.3g} s wait for messages and {cost.hidden_s:.3g} s of them are "
            f"hidden; most time goes to {cost.limit}"
        )


def _time_text(index, plan, rates):
    seconds, note = seconds_of(index, plan, rates), rates.notes.get(index)
    if seconds is None:
        why = note or "since no speed was measured; --measure does so in some seconds"
        return f"time: unknown, {why}"
    speed = f"{rates.images_per_s[index]:,.4g} images a second"
    source = f"{rates.source}; {note}" if note else rates.source
    clusterings_s = rates.clusterings_s(plan)
    if clusterings_s is not None:
        rest = f", and {_duration(clusterings_s)} of clusterings"
    else:
        rest = ", without clusterings" if plan.stage.clustered else ""
    return f"time: {_duration(seconds)} of training at {speed} ({source}){rest}"


def _stage_dict(index, plan, rates):
    return {
        "name": plan.stage.name,
        "epochs": plan.stage.epochs,
        "steps_per_epoch": plan.steps_per_epoch,
        "clusterings": plan.stage.rounds if plan.stage.clustered else 0,
        "batch_per_worker": plan.batch.per_worker,
        "views": plan.stage.views.count,
        "serves": [
            {"workers": list(ranks), "super_classes": list(classes)}
            for ranks, classes in plan.groups
        ],
        "weights": plan.size.weights,
        "step_bytes": int(plan.size.sent_bytes),
        "step_bytes_as_gradients": int(plan.size.sent_as_gradients),
        "factors": list(plan.size.factored),
        "prototype_bytes": 4 * plan.size.prototype_weights,
        "iteration_bytes": plan.iteration_bytes,
        "features": plan.stage.features,
        "extractions": plan.stage.extractions,
        "bank_bytes": plan.bank.shared_bytes,
        "feature_bytes": int(plan.clustering.store_bytes) if plan.clustering else 0,
        "checkpoint_bytes": plan.size.checkpoint_bytes,
        "kept_clustering_bytes": plan.kept_clustering_bytes,
        "reassign_every": plan.stage.reassign_every if plan.stage.clustered else 0,
        "drops": list(plan.stage.optimizer.drops),
        "warmup_epochs": plan.stage.optimizer.warmup_epochs,
        "images_per_second": rates.images_per_s.get(index),
        "train_seconds": seconds_of(index, plan, rates),
        "clustering_seconds": rates.clusterings_s(plan),
    }


def _measured_dict(rates):
    return {
        "source": rates.source,
        "extract_images_per_second": rates.extract_per_s,
        "first_steps_seconds": rates.first_steps_s,
        "seconds": rates.seconds,
        "notes": list(rates.notes.values()),
    }


def _span(numbers):
    first, last = numbers[0], numbers[-1]
    return str(first) if first == last else f"{first}-{last}"


def _duration(seconds):
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
