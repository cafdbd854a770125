"""A stage of an experiment: a method with its settings."""

import dataclasses
import math

from dc_tf.experiment.augmentation import (
    Augmentation,
    Views,
    check_augmentation,
    check_views,
)
from dc_tf.experiment.clustering import Clustering, check_clustering
from dc_tf.experiment.contrast import Contrast, check_contrast
from dc_tf.experiment.data import Data
from dc_tf.experiment.model import Model
from dc_tf.experiment.need import need, need_at_least, need_choice
from dc_tf.experiment.optimizer import Optimizer, check_optimizer_settings
from dc_tf.experiment.projection import Projection, check_projection
from dc_tf.hyperparams import Config
from dc_tf.nn.trunks import TRUNKS, feature_dim

HEADS = ("linear", "prototypes")
PROTOTYPE_ROTATIONS = ("shared", "mapped")
LOSSES = ("hierarchical", "product")
HEAD_INITIALIZERS = ("uniform", "normal")
FEATURES = ("extract", "bank")
SAMPLINGS = ("clusters", "images")


@dataclasses.dataclass
class Stage(Config):
    """A method with its settings, run for some epochs.

    RotNet is clusters = 1, sub_clusters = 0, rotations = 4; DeepCluster is clusters = 1,
    rotations = 1; DeeperCluster has several of each.

    Attributes:
        name: of the stage in progress lines, results and `--stage`.
        epochs: each of about N images.
        rotations: R; 1 (upright only), 2 (and upside down) or 4.
        clusters: m, clusters of the first level.
        sub_clusters: k, clusters inside each of the m; 0 trains without them.
        reassign_every: epochs from one clustering to the next.
        features: that a clustering takes: "extract", a pass over all images in inference mode, as
            in the paper; or "bank", those of the training steps since the last clustering, of
            augmented views in training mode. Only the first clustering of a stage extracts then.
        sampling: of an epoch, uniform over the "clusters" of each super-class, so that small ones
            are repeated, as in the paper; or over its "images", each of which is seen once.
        rotations_together: the R rotations of an image are in one batch; needs clusters = 1. An
            epoch still has about N images, so N / R distinct ones.
        head_initializer: "uniform" or "normal"; see `dc_tf.nn.heads.LinearHead`.
        batch_size: images of one step over all workers.
        accumulate: micro-batches into which a worker's batch is split, to save memory. Batch norm
            uses the statistics of a micro-batch (of all workers).
        loss: "hierarchical" (Eq. 5), or "product" (Eq. 4): one softmax over all pairs of
            super-class and sub-class, held by every worker.
        clusterings: C, clusterings at the second level of each cluster, from different initial
            centroids; each has heads of its own, and their losses are averaged.
        head: of the sub-classes, "linear", learned; or "prototypes", frozen: the centroids of the
            round, whose logits are cosines over `temperature`. Prototypes need a projection,
            clustering.whiten = false and clustering.spherical = true.
        temperature: of the logits of prototypes.
        prototype_rotation: the rotations of a cluster have "shared" prototypes; with "mapped", a
            learned linear map for each rotation comes before the cosines.
        contrast: a second loss, in which the views of an image find each other in the batch.
    """

    name: str = "deepercluster"
    epochs: int = 100
    rotations: int = 4
    clusters: int = 4
    sub_clusters: int = 80_000
    reassign_every: int = 3
    features: str = FEATURES[0]
    sampling: str = SAMPLINGS[0]
    rotations_together: bool = False
    head_initializer: str = "uniform"
    batch_size: int = 3072
    accumulate: int = 1
    loss: str = "hierarchical"
    clusterings: int = 1
    head: str = HEADS[0]
    temperature: float = 0.1
    prototype_rotation: str = PROTOTYPE_ROTATIONS[0]
    projection: Projection = dataclasses.field(default_factory=Projection)
    contrast: Contrast = dataclasses.field(default_factory=Contrast)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    clustering: Clustering = dataclasses.field(default_factory=Clustering)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    views: Views = dataclasses.field(default_factory=Views)

    @property
    def super_classes(self) -> int:
        """S."""
        return self.clusters * self.rotations

    @property
    def sub_classes(self) -> int:
        """Sub-classes of a super-class, of all clusterings."""
        return self.clusterings * self.sub_clusters

    @property
    def has_prototypes(self) -> bool:
        """Whether the centroids of a round are the weights of its sub-classes."""
        return self.head == "prototypes"

    def kept_clusterings(self, keep: int) -> int:
        """Clusterings that are kept in this stage: prototypes are read from that of the round.

        Args:
            keep: `Experiment.keep_clusterings`.
        """
        return max(keep, 1) if self.has_prototypes else keep

    def feature_dim(self, trunk_dim: int) -> int:
        """Length of the vectors that are clustered and classified.

        Args:
            trunk_dim: length of the trunk's features.
        """
        return self.projection.dim or trunk_dim

    @property
    def clustered(self) -> bool:
        """Whether training needs cluster assignments at all."""
        return self.clusters > 1 or self.sub_clusters > 0

    @property
    def has_bank(self) -> bool:
        """Whether features of training steps are kept for the next clustering."""
        return self.features == "bank"

    @property
    def extractions(self) -> int:
        """Passes over all images to extract features, one for each clustering or the first."""
        return (1 if self.has_bank else self.rounds) if self.clustered else 0

    @property
    def rounds(self) -> int:
        """Number of clusterings, or 1 for a stage that does without."""
        return math.ceil(self.epochs / self.reassign_every) if self.clustered else 1

    def round_of(self, epoch: int) -> tuple[int, int, int]:
        """(index, first epoch, epoch after the last) of the round that `epoch` belongs to."""
        if not self.clustered:
            return 0, 0, self.epochs
        index = epoch // self.reassign_every
        first = index * self.reassign_every
        return index, first, min(self.epochs, first + self.reassign_every)


def check_stage(stage: Stage, place: str, data: Data, model: Model) -> None:
    """Refuses what cannot work; raises ConfigError.

    Args:
        stage: its settings.
        place: where they are, as in "stages[0]".
        data: settings of the images.
        model: settings of the network.
    """

    def name(setting):
        return f"{place}.{setting}"

    for setting in ("epochs", "clusters", "reassign_every", "batch_size", "accumulate"):
        need_at_least(name(setting), getattr(stage, setting), 1)
    need(stage.rotations in (1, 2, 4), name("rotations"), stage.rotations, "use 1, 2 or 4")
    need(stage.sub_clusters != 1, name("sub_clusters"), 1, "use 0, or at least 2")
    need(stage.sub_clusters >= 0, name("sub_clusters"), stage.sub_clusters, "use 0, or at least 2")
    together = stage.rotations_together and stage.clusters > 1
    need(not together, name("rotations_together"), True, "use it with clusters = 1 only")
    pointless = stage.super_classes == 1 and stage.sub_clusters == 0
    need(not pointless, name("rotations"), 1, "use more rotations, clusters or sub_clusters")
    need_choice(name("head_initializer"), stage.head_initializer, HEAD_INITIALIZERS)
    need_choice(name("loss"), stage.loss, LOSSES)
    flat = stage.loss == "product" and not stage.sub_clusters
    need(not flat, name("loss"), "product", "use it with sub_clusters")
    several = stage.clusterings
    need_at_least(name("clusterings"), several, 1)
    single = several == 1 or (stage.sub_clusters and stage.loss == "hierarchical")
    need(single, name("clusterings"), several, "use 1, or sub_clusters and the hierarchical loss")
    need_choice(name("features"), stage.features, FEATURES)
    need_choice(name("sampling"), stage.sampling, SAMPLINGS)
    used = stage.clustered or not stage.has_bank
    need(used, name("features"), stage.features, "use extract in a stage without clusters")
    check_projection(stage.projection, name("projection"))
    check_contrast(stage.contrast, name("contrast"), stage)
    source = "projection.dim" if stage.projection.dim else _source_of_features(model)
    dim = stage.feature_dim(feature_dim(model))
    check_clustering(stage.clustering, name("clustering"), dim, source)
    _check_head(stage, name)
    check_optimizer_settings(stage.optimizer, name("optimizer"), stage.epochs)
    check_augmentation(stage.augmentation, name("augmentation"))
    check_views(stage.views, name("views"), data, model)


def _source_of_features(model):
    """What the length of the trunk's features is named in messages."""
    return "the length of the features" if TRUNKS[model.trunk].features else "fc"


def _check_head(stage, name):
    need_choice(name("head"), stage.head, HEADS)
    need_choice(name("prototype_rotation"), stage.prototype_rotation, PROTOTYPE_ROTATIONS)
    temperature = stage.temperature
    need(0 < temperature <= 100, name("temperature"), temperature, "use (0, 100]")
    if not stage.has_prototypes:
        return
    for works, remedy in (
        (stage.sub_clusters, "set sub_clusters to at least 2"),
        (stage.loss == "hierarchical", "set loss to hierarchical"),
        (stage.projection.dim, "set projection.dim, as to 128"),
        (not stage.clustering.whiten, "set clustering.whiten to false"),
        (stage.clustering.spherical, "set clustering.spherical to true"),
    ):
        need(works, name("head"), stage.head, f"{remedy} as well, or use linear")
