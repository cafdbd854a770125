"""Metadata of the generated pictures: user, place, time of day, camera and hashtags.

    site = PhotoSite(seed=0)
    photo = site.take("boat", rng)      # .place and .hour for the scene, .meta() for the record

As on a photo-sharing site, metadata correlates with content but does not determine it: boats are
mostly on water, users stay near home and keep their camera, and hashtags name the object, the
place, the light or something unrelated. A few users take most of the pictures. Does not import
TensorFlow, so that drawing processes start fast.
"""

import dataclasses

import numpy as np

from dc_tf.data.synthetic.scenes import HOURS, PLACES

# Usual places of each object; one picture in ten is taken at any place.
HAUNTS = {
    "tree": ("meadow", "forest", "village"),
    "house": ("village", "city", "mountains"),
    "person": ("city", "coast", "village"),
    "car": ("city", "desert", "village"),
    "dog": ("meadow", "village", "coast"),
    "boat": ("coast", "lake"),
    "tower": ("city", "coast", "mountains"),
    "flower": ("meadow", "forest", "mountains"),
    "balloon": ("desert", "meadow", "lake"),
    "windmill": ("coast", "meadow"),
    "cactus": ("desert",),
    "mushroom": ("forest", "meadow"),
}

# Hashtags of each object besides its name.
WORDS = {
    "tree": ("trees", "nature", "green"),
    "house": ("home", "architecture", "cottage"),
    "person": ("portrait", "people", "me"),
    "car": ("cars", "auto", "roadtrip"),
    "dog": ("dogs", "pet", "puppy"),
    "boat": ("sailing", "sea", "boats"),
    "tower": ("architecture", "castle", "history"),
    "flower": ("flowers", "nature", "garden"),
    "balloon": ("hotairballoon", "flying", "sky"),
    "windmill": ("mill", "architecture", "wind"),
    "cactus": ("cacti", "nature", "dry"),
    "mushroom": ("mushrooms", "nature", "autumn"),
}
IDLE_WORDS = ("photo", "travel", "weekend", "nofilter", "2019", "best", "holiday", "walk")
CAMERAS = ("Aurea 100", "Aurea 300D", "Belmira P7", "Corvo X2", "Corvo Mini", "Dalen One")
SYLLABLES = (
    "ba",
    "co",
    "den",
    "el",
    "fa",
    "gor",
    "hal",
    "is",
    "lo",
    "mar",
    "nor",
    "ri",
    "sol",
    "ta",
)


@dataclasses.dataclass(frozen=True)
class Spot:
    """A place with a name.

    Attributes:
        name: str.
        place: str, one of scenes.PLACES.
        latitude, longitude: float, degrees.
    """

    name: str
    place: str
    latitude: float
    longitude: float


@dataclasses.dataclass(frozen=True)
class Photo:
    """Place, time of day and metadata of one picture.

    Attributes:
        place, hour: str, keys of scenes.PLACES and scenes.HOURS.
        hashtags: tuple of str, possibly empty.
        user, camera: str.
        latitude, longitude: float, degrees.
    """

    place: str
    hour: str
    hashtags: tuple
    user: str
    camera: str
    latitude: float
    longitude: float

    def meta(self) -> dict:
        """The record's `meta/*`: dict of name to str, list of str or float."""
        names = ("user", "camera", "latitude", "longitude")
        known = {name: getattr(self, name) for name in names}
        return {**known, "hashtags": list(self.hashtags)} if self.hashtags else known


class PhotoSite:
    """The spots and users of one seed; the same for all splits and any number of pictures."""

    def __init__(self, seed, users=80, spots_per_place=4):
        rng = np.random.default_rng([seed, 0x51])
        self._spots = [_spot(place, rng) for place in PLACES for _ in range(spots_per_place)]
        self._users = [f"{_name(rng)}{rng.integers(10, 99)}" for _ in range(users)]
        self._cameras = rng.choice(CAMERAS, (users, 2), p=_zipf(len(CAMERAS)))
        # (users, spots): relative frequency of a user's pictures at a spot; most stay near home.
        near = rng.random((users, len(self._spots))) < 0.15
        self._presence = _zipf(users)[:, None] * np.where(near, 1.0, 0.01)

    def take(self, object_name, rng) -> Photo:
        """Draws the Photo of an object from `rng`, an np.random.Generator."""
        spot_id = self._spot_id(object_name, rng)
        presence = self._presence[:, spot_id]
        user = rng.choice(len(self._users), p=presence / presence.sum())
        spot, hour = self._spots[spot_id], str(rng.choice(list(HOURS)))
        return Photo(
            place=spot.place,
            hour=hour,
            hashtags=_hashtags(object_name, spot, hour, rng),
            user=self._users[user],
            camera=str(self._cameras[user, int(rng.random() < 0.15)]),
            latitude=spot.latitude + rng.normal(0, 0.02),
            longitude=spot.longitude + rng.normal(0, 0.02),
        )

    def _spot_id(self, object_name, rng):
        anywhere = rng.random() < 0.1
        place = str(rng.choice(list(PLACES) if anywhere else HAUNTS[object_name]))
        ids = [i for i, spot in enumerate(self._spots) if spot.place == place]
        return int(rng.choice(ids, p=_zipf(len(ids))))


def _hashtags(object_name, spot, hour, rng):
    candidates = [
        (0.6, object_name),
        (0.35, rng.choice(WORDS[object_name])),
        (0.4, spot.place),
        (0.3, spot.name),
        (0.3, hour),
        (0.4, rng.choice(IDLE_WORDS)),
    ]
    chosen = [str(word) for chance, word in candidates if rng.random() < chance]
    return tuple(dict.fromkeys(chosen))


def _spot(place, rng):
    return Spot(_name(rng), place, rng.uniform(-50, 65), rng.uniform(-170, 170))


def _name(rng):
    return "".join(rng.choice(SYLLABLES, 3))


def _zipf(count):
    """(count,) probabilities that fall as 1 / rank."""
    weights = 1 / np.arange(1, count + 1)
    return weights / weights.sum()
