"""Which workers share the batch statistics of batch norm.

comm = statistics_comm(model, cluster, plan.topology)
"""

from dc_tf.distributed.collectives import Communicator, Solo


def statistics_comm(model, cluster, topology) -> Communicator:
    """Communicator of the workers that share batch statistics (`Model.sync_batch_norm`).

    Args:
        model: experiment.Model.
        cluster: Cluster.
        topology: Topology of the stage.
    """
    if model.sync_batch_norm == "off":
        return Solo()
    if model.sync_batch_norm == "group":
        return cluster.group(topology.sharers(cluster.rank))
    return cluster.world
