"""Computes one R-MAC vector per image, whitened with the regions of other images.

    extractor = RMACExtractor(frozen.trunk, protocol, world, "model")
    whitening, bad = extractor.fit(paths)                 # of another data set
    vectors, bad = extractor.vectors(requests, whitening)

Workers share the images. Region vectors are not kept, only the moments for whitening and one vector
per image, so memory does not grow with the number of regions.
"""

import numpy as np
import tensorflow as tf

from dc_tf.clustering.store.whitening import Moments, Whitening
from dc_tf.distributed.blocks import gather_rows
from dc_tf.distributed.collectives import all_agree
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.retrieval import rmac
from dc_tf.evaluation.retrieval.images import scaled_images
from dc_tf.progress import Progress


class RMACExtractor:
    """Maps images of any size to R-MAC vectors of a convolutional layer.

    Attributes:
        channels: number of channels of the layer's map.
        dimensions: length of a vector.
    """

    def __init__(self, trunk, protocol, world, name):
        """Prepares.

        Args:
            trunk: built Trunk.
            protocol: retrieval.task.Protocol.
            world: Communicator of the workers that share the images.
            name: name in progress and messages.

        Raises:
            ConfigError: there are more dimensions than channels.
        """
        self._protocol = protocol
        self._world = world
        self._name = name
        layer = protocol.layer or trunk.map_names[-1]

        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3])], autograph=False)
        def maps(images):
            return trunk.convolutions(images)[layer]

        self._maps = maps
        self.channels = int(maps.get_concrete_function().output_shapes[-1])
        self.dimensions = protocol.dimensions or self.channels
        if self.dimensions > self.channels:
            raise ConfigError(
                f"dimensions is {self.dimensions}, but {layer} of this network has "
                f"{self.channels} channels; use that or fewer, or 0 for all."
            )

    def regions(self, image) -> np.ndarray:
        """(n, channels) float32 L2-normalised maxima over the regions of an (h, w, 3) image."""
        maps = self._maps(image[None]).numpy()[0]
        grid = rmac.grid(*maps.shape[:2], self._protocol.levels, self._protocol.overlap)
        return rmac.maxima(maps, grid)

    def fit(self, paths, ignore=False) -> tuple[Whitening, np.ndarray]:
        """PCA whitening of the regions of n images, and (n,) bool, which images are unusable.

        Args:
            paths: paths of n images.
            ignore: leave out unusable images instead of raising.

        Raises:
            ConfigError: there are too few regions for the dimensions.
            DataError: an image is unusable.
        """
        moments = Moments(self.channels)
        requests = [(row, path, None) for row, path in enumerate(paths)]
        bad = self._over(requests, "whitening", lambda _, regions: moments.update(regions))
        bad = self._checked(bad, requests, ignore)
        count = int(self._world.all_sum(np.int64(moments.rows)))
        if count <= self.dimensions:
            raise ConfigError(
                f"whitening to {self.dimensions} dimensions needs more than {self.dimensions} "
                f"regions, but the {len(paths)} images of --train have {count}; give more images, "
                "or set fewer dimensions."
            )
        return Whitening.fit(moments, self._world, self.dimensions), bad

    def vectors(
        self, requests, whitening, what="database", ignore=False
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n, dimensions) float32 vectors of length 1, and (n,) bool, which images are unusable.

        Args:
            requests: list of n (row, path, box or None), rows 0..n-1 in order.
            whitening: Whitening of `fit`.
            what: title of the progress.
            ignore: leave the vectors of unusable images at zero instead of raising.

        Raises:
            DataError: an image is unusable.
        """
        own = self._own(requests)
        vectors = np.zeros((len(own), self.dimensions), np.float32)

        def describe(row, regions):
            vectors[own.index(row)] = rmac.aggregate(whitening.apply(regions))

        bad = self._checked(self._over(requests, what, describe), requests, ignore)
        return gather_rows(vectors, own, len(requests), self._world), bad

    def _own(self, requests) -> range:
        """The rows of this worker's images."""
        return range(self._world.rank, len(requests), self._world.size)

    def _over(self, requests, what, use) -> list:
        """Calls `use(row, regions)` for this worker's images.

        Returns:
            For each image of all workers, None or why it is unusable. Every worker learns which
            images are unusable, so all raise together.
        """
        reasons = [None] * len(requests)
        finite = True
        own = [requests[row] for row in self._own(requests)]
        title = f"{self._name}: {what}"
        with Progress(len(own), title, "images", enabled=self._world.rank == 0) as progress:
            for row, image in scaled_images(own, self._protocol.longest_side):
                if isinstance(image, DataError):
                    reasons[row] = str(image)
                else:
                    regions = self.regions(image)
                    finite &= bool(np.isfinite(regions).all())
                    use(row, regions)
                progress.update(1)
        if not all_agree(finite, self._world):
            raise DataError(f"the features of {self._name} are not finite; use another model.")
        # Only the worker that read an image knows the reason; the others learn that there is one.
        flags = np.array([reasons[row] is not None for row, *_ in own], np.int64)
        bad = gather_rows(flags, self._own(requests), len(requests), self._world)
        for row in np.flatnonzero(bad):
            reasons[row] = reasons[row] or f"the image {requests[row][1]} cannot be used"
        return reasons

    @staticmethod
    def _checked(reasons, requests, ignore):
        """(n,) bool, which images are unusable; raises for any unless `ignore`."""
        broken = [reason for reason in reasons if reason]
        if broken and not ignore:
            raise DataError(
                f"{len(broken)} of {len(requests)} images are unusable, such as this one: "
                f"{broken[0].rstrip('.')}; repair them, or set ignore_unreadable to leave them out."
            )
        return np.array([reason is not None for reason in reasons], bool)
