"""One R-MAC vector for each image of a folder, whitened by the regions of other images.

    extractor = RMACExtractor(frozen.trunk, protocol, world, "model")
    whitening, bad = extractor.fit(paths)                 # of another data set
    vectors, bad = extractor.vectors(requests, whitening)

Workers share the images. Regions are never kept: moments for whitening, one vector an image
after it, so that memory is flat in the number of regions.
"""

import numpy as np
import tensorflow as tf

from dc_tf.clustering.store.whitening import Moments, Whitening
from dc_tf.distributed.collectives import all_agree
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.retrieval import rmac
from dc_tf.evaluation.retrieval.images import scaled_images
from dc_tf.progress import Progress

_SUM_ROWS = 1 << 14  # of vectors in one exchange


class RMACExtractor:
    """Images of any size to vectors, by the convolutions of a network.

    Attributes:
        channels: of the layer's map.
        dimensions: of a vector.
    """

    def __init__(self, trunk, protocol, world, name):
        """Prepares.

        Args:
            trunk: built VGG16.
            protocol: retrieval.Protocol.
            world: Communicator of the workers that share the images.
            name: for progress.

        Raises:
            ConfigError: more dimensions than channels.
        """
        self._protocol = protocol
        self._world = world
        self._name = name

        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3])], autograph=False)
        def maps(images):
            return trunk.convolutions(images)[protocol.layer]

        self._maps = maps
        self.channels = int(maps.get_concrete_function().output_shapes[-1])
        self.dimensions = protocol.dimensions or self.channels
        if self.dimensions > self.channels:
            raise ConfigError(
                f"dimensions is {self.dimensions}, but {protocol.layer} of this network has "
                f"{self.channels} channels; use that or fewer, or 0 for all."
            )

    def regions(self, image) -> np.ndarray:
        """(n, channels) float32 maxima over regions, of length 1, of an (h, w, 3) image."""
        maps = self._maps(image[None]).numpy()[0]
        grid = rmac.grid(*maps.shape[:2], self._protocol.levels, self._protocol.overlap)
        return rmac.maxima(maps, grid)

    def fit(self, paths, ignore=False) -> tuple[Whitening, np.ndarray]:
        """PCA whitening of all regions of some images, and (n,) bool, which of these are no use.

        Args:
            paths: of n images.
            ignore: leave out images that cannot be used, rather than refuse them.

        Raises:
            ConfigError: too few regions for the dimensions.
            DataError: an image cannot be used.
        """
        moments = Moments(self.channels)
        requests = [(row, path, None) for row, path in enumerate(paths)]
        bad = self._over(requests, "whitening", lambda _, regions: moments.update(regions))
        bad = self._checked(bad, requests, ignore)
        count = int(self._world.all_sum(np.int64(moments.rows)))
        if count <= self.dimensions:
            raise ConfigError(
                f"whitening to {self.dimensions} dimensions needs more regions than that, but the "
                f"{len(paths)} images of --train have {count}; give more images, or set fewer "
                "dimensions."
            )
        return Whitening.fit(moments, self._world, self.dimensions), bad

    def vectors(self, requests, whitening, what="database", ignore=False):
        """(n, dimensions) float32 vectors of length 1, and (n,) bool where there is none.

        Args:
            requests: list of n (row, path, box or None), rows 0..n-1 in order.
            whitening: what `fit` returned.
            what: for progress.
            ignore: leave out images that cannot be used, rather than refuse them.

        Raises:
            DataError: an image cannot be used.
        """
        vectors = np.zeros((len(requests), self.dimensions), np.float32)

        def describe(row, regions):
            vectors[row] = rmac.aggregate(whitening.apply(regions))

        bad = self._checked(self._over(requests, what, describe), requests, ignore)
        for start in range(0, len(vectors), _SUM_ROWS):
            part = slice(start, start + _SUM_ROWS)
            vectors[part] = self._world.all_sum(vectors[part]).numpy()
        return vectors, bad

    def _over(self, requests, what, use) -> list:
        """Calls `use(row, regions)` for this worker's images; for all images, None or the fault.

        What is found wrong is told to all workers, so that all stop.
        """
        reasons = [None] * len(requests)
        finite = True
        own = requests[self._world.rank :: self._world.size]
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
            raise DataError(f"{self._name} gives features that are not finite.")
        # Others learn that it cannot be used; why, is known where it was read.
        flags = np.array([reason is not None for reason in reasons], np.int64)
        for row in np.flatnonzero(self._world.all_sum(flags).numpy()):
            reasons[row] = reasons[row] or f"the image {requests[row][1]} cannot be used"
        return reasons

    @staticmethod
    def _checked(reasons, requests, ignore):
        """(n,) bool, which images cannot be used."""
        broken = [reason for reason in reasons if reason]
        if broken and not ignore:
            raise DataError(
                f"{len(broken)} of {len(requests)} images are no use; {broken[0]}. To leave such "
                "images out, set ignore_unreadable."
            )
        return np.array([reason is not None for reason in reasons], bool)
