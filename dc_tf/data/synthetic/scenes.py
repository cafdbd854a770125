"""Draws scenes with a visible orientation: objects on the ground under a sky, lit from above.

    image = scene("house", place="coast", size=64, rng=np.random.default_rng(0))

Orientation shows in the objects, which stand on the ground, are brighter on top and cast shadows;
in the ground, whose texture is coarser towards the viewer; in clouds, which are flat and grey
below; and in hills on the horizon. Colour and brightness alone do not reveal it: palettes are
random, some nights have dark skies over bright snow, mist gives sky and ground the same colour,
and branches and fences hide corners. Does not import TensorFlow, so that drawing processes start
fast.
"""

import dataclasses

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dc_tf.data.synthetic.objects import draw, hsv, shade

FINER = 3  # Supersampling factor, for smooth edges.

# The ground's usual (hue, strength, light) and look; a third of all scenes depart from the hue.
PLACES = {
    "meadow": (0.27, 0.5, 0.55, "grass"),
    "village": (0.2, 0.4, 0.6, "grass"),
    "city": (0.65, 0.06, 0.5, "street"),
    "coast": (0.56, 0.5, 0.55, "water"),
    "lake": (0.5, 0.4, 0.45, "water"),
    "desert": (0.1, 0.45, 0.8, "sand"),
    "mountains": (0.6, 0.06, 0.9, "snow"),
    "forest": (0.12, 0.45, 0.4, "grass"),
}

# Light at an hour: sky at the top and at the horizon as (hue, strength, light), then brightness.
HOURS = {
    "morning": ((0.58, 0.3, 0.85), (0.1, 0.25, 1.0), 0.95),
    "noon": ((0.6, 0.6, 0.85), (0.55, 0.2, 0.97), 1.05),
    "sunset": ((0.72, 0.45, 0.5), (0.05, 0.65, 0.95), 0.8),
    "night": ((0.66, 0.6, 0.2), (0.63, 0.45, 0.42), 0.62),
    "overcast": ((0.6, 0.06, 0.62), (0.6, 0.04, 0.8), 0.85),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """Parameters shared by all parts of one picture.

    Attributes:
        side: int, pixels of the canvas, which is FINER times the picture.
        horizon: float, height of the horizon as a share of the side from the top.
        slope: float, rise of the horizon over the width, the same unit.
        top, low: (3,) sky colours at the top and at the horizon, 0..255.
        ground: (3,) colour, 0..255.
        look: str, one of grass, street, water, sand, snow.
        brightness: float, of everything that does not shine.
        sun: float in [-1, 1], where the light comes from: left, above, right.
    """

    side: int
    horizon: float
    slope: float
    top: tuple
    low: tuple
    ground: tuple
    look: str
    brightness: float
    sun: float


def scene(object_name, place, hour, size, rng) -> np.ndarray:
    """Draws one picture.

    Args:
        object_name: one of objects.OBJECTS, what the picture shows.
        place: one of PLACES, where it stands.
        hour: one of HOURS, the light.
        size: int, pixels of a side.
        rng: np.random.Generator; the same state gives the same picture.

    Returns:
        (size, size, 3) uint8.
    """
    setting = _setting(place, hour, size, rng)
    canvas = _sky(setting, rng)
    _clouds(canvas, setting, hour, rng)
    _hills(canvas, setting, rng)
    canvas = _ground(canvas, setting, rng)
    _strokes(canvas, setting, rng)
    _distant_thing(canvas, setting, object_name, rng)
    if rng.random() < 0.3:
        _place_object(canvas, setting, object_name, rng.uniform(0.2, 0.32), rng)
    _place_object(canvas, setting, object_name, rng.uniform(0.42, 0.78), rng)
    _foreground(canvas, setting, rng)
    return _develop(canvas, size, rng)


def _setting(place, hour, size, rng):
    hue, strength, light, look = PLACES[place]
    top, low, brightness = HOURS[hour]
    if rng.random() < 0.35:
        hue, strength = rng.random(), rng.uniform(0.05, 0.6)
    drift = rng.normal(0, 0.05) + (rng.random() if rng.random() < 0.2 else 0)
    ground = hsv(hue + rng.normal(0, 0.03), strength, light * rng.uniform(0.75, 1.1))
    shown = brightness * rng.uniform(0.8, 1.15)
    if look in ("snow", "water", "sand") and rng.random() < 0.6:
        shown = max(shown, 0.95)  # These can outshine the sky.
    top = hsv(top[0] + drift, top[1] * rng.uniform(0.5, 1.3), top[2] * rng.uniform(0.7, 1.1))
    low = hsv(low[0] + drift, low[1] * rng.uniform(0.5, 1.2), low[2] * rng.uniform(0.7, 1.1))
    mist = rng.uniform(0.6, 0.97) if rng.random() < 0.4 else 0.0
    return Setting(
        side=FINER * size,
        horizon=rng.uniform(0.3, 0.72),
        slope=rng.normal(0, 0.025),
        top=_mix(top, low, mist),
        low=low,
        ground=_mix(shade(ground, shown), low, mist),
        look=look,
        brightness=brightness,
        sun=rng.uniform(-1, 1),
    )


def _sky(setting, rng):
    """The sky from top to horizon, brighter towards the sun; also drawn below the horizon."""
    small = 24  # It is smooth; making it small and enlarging it is fast.
    y, x = np.mgrid[0:small, 0:small] / (small - 1)
    down = np.clip(y / setting.horizon, 0, 1)[..., None] ** rng.uniform(0.7, 1.6)
    colors = np.array(setting.top) * (1 - down) + np.array(setting.low) * down
    colors *= 1 + 0.15 * setting.sun * (x[..., None] - 0.5)
    return _enlarge(colors, setting.side)


def _clouds(canvas, setting, hour, rng):
    """Clouds of overlapping ellipses with a flat, grey base; sometimes the sun or the moon."""
    pen, side = ImageDraw.Draw(canvas), setting.side
    if hour != "overcast" and rng.random() < 0.3:
        x, y = (0.5 + 0.4 * setting.sun) * side, rng.uniform(0.08, 0.8) * setting.horizon * side
        radius = rng.uniform(0.03, 0.07) * side
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=(255, 246, 214))
    light = np.clip(np.array(setting.low) * 0.4 + 150 * setting.brightness, 0, 255)
    for _ in range(rng.integers(0, 4)):
        x, y = rng.uniform(0, 1) * side, rng.uniform(0.05, 0.8) * setting.horizon * side
        width = rng.uniform(0.08, 0.2) * side
        for tone, lift in [(0.72, 0.0), (1.0, 0.09)]:
            for part in np.linspace(-1, 1, 5):
                radius = width * (0.42 - 0.22 * part**2)
                middle = x + part * width, y - radius * (0.6 + 3 * lift)
                pen.ellipse(_box(*middle, radius, radius * (0.75 - lift)), fill=_ints(light * tone))


def _hills(canvas, setting, rng):
    """Ridges from far to near; the farther, the closer to the sky's colour."""
    pen, side = ImageDraw.Draw(canvas), setting.side
    color = rng.uniform(0.4, 0.9) * np.array(setting.ground)
    for distance in sorted(rng.uniform(0.2, 0.8, rng.integers(0, 3)))[::-1]:
        x = np.linspace(0, 1, 25)
        waves = sum(
            rng.uniform(0.2, 1) / n * np.sin(n * np.pi * x * 2 + rng.uniform(0, 6.3))
            for n in (1, 2, 4)
        )
        height = rng.uniform(0.04, 0.1) * (1 + distance) * (1 + 0.6 * waves)
        ridge = (setting.horizon + setting.slope * (x - 0.5) - np.maximum(height, 0)) * side
        shown = color * (1 - distance) + np.array(setting.low) * distance
        pen.polygon(
            [*zip(x * side, ridge, strict=True), (side, side), (0, side)], fill=_ints(shown)
        )


def _ground(canvas, setting, rng):
    """The ground below the horizon, hazy far away and full in colour close by."""
    small = 24
    y, x = np.mgrid[0:small, 0:small] / (small - 1)
    near = np.clip((y - setting.horizon) / (1 - setting.horizon), 0, 1)[..., None]
    haze, dark = rng.uniform(0.1, 0.45), rng.uniform(0.0, 0.3)
    color = np.array(setting.ground) * (1 - dark * near)
    color = color * (1 - haze * (1 - near)) + np.array(setting.low) * haze * (1 - near)
    color *= 1 + 0.12 * setting.sun * (x[..., None] - 0.5)
    side, rise = setting.side, setting.slope * setting.side / 2
    level = setting.horizon * side
    mask = Image.new("L", canvas.size)
    outline = [(0, level - rise), (side, level + rise), (side, side), (0, side)]
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    return Image.composite(_enlarge(color, side), canvas, mask)


def _strokes(canvas, setting, rng):
    """Marks on the ground, longer and wider apart the closer they are."""
    pen, side = ImageDraw.Draw(canvas), setting.side
    if setting.look == "street":
        _street(pen, setting, rng)
    for near in np.sort(rng.uniform(0, 1, {"snow": 25, "street": 15}.get(setting.look, 70)) ** 1.5):
        x, y = rng.uniform(0, side), (setting.horizon + 0.03 + near * (1 - setting.horizon)) * side
        size = (0.008 + 0.05 * near) * side
        tone = _ints(np.array(setting.ground) * rng.uniform(0.65, 1.3))
        width = max(1, round(0.2 * size))
        if setting.look == "grass":
            tip = (x + rng.normal(0, 0.5) * size, y - size * rng.uniform(0.6, 1.3))
            pen.line([(x, y), tip], fill=tone, width=width)
        elif setting.look in ("water", "sand"):
            pen.line([(x - 1.5 * size, y), (x + 1.5 * size, y)], fill=tone, width=width)
        else:
            pen.ellipse(_box(x, y, 0.6 * size, 0.25 * size), fill=tone)


def _street(pen, setting, rng):
    """A road that runs to a point on the horizon, with a dashed line along its middle."""
    side, level = setting.side, (setting.horizon + 0.02) * setting.side
    end, start = rng.uniform(0.2, 0.8) * side, rng.uniform(0.0, 1.0) * side
    half = rng.uniform(0.2, 0.45) * side
    road = [(end - 2, level), (end + 2, level), (start + half, side), (start - half, side)]
    pen.polygon(road, fill=shade(setting.ground, 0.7))
    for near in (0.08, 0.2, 0.38, 0.65):
        at = [near, near * 1.35]
        x, y = [end + (start - end) * n for n in at], [level + (side - level) * n for n in at]
        width = max(1, round(0.03 * near * side))
        pen.line([(x[0], y[0]), (x[1], y[1])], fill=shade(setting.ground, 1.5), width=width)


def _distant_thing(canvas, setting, object_name, rng):
    """Draws, in half of the pictures, another object, small and pale at the horizon."""
    if rng.random() < 0.5:
        other = rng.choice(
            [name for name in ("tree", "house", "tower", "windmill") if name != object_name]
        )
        _place_object(canvas, setting, str(other), rng.uniform(0.09, 0.16), rng, haze=0.45)


def _place_object(canvas, setting, name, height, rng, haze=0.0):
    """Draws an object with its shadow; larger things stand closer, that is lower in the picture."""
    flat = {"car": 0.62, "dog": 0.75, "mushroom": 0.8}.get(name, 1.0)
    layer = draw(name, max(8, round(height * flat * setting.side)), rng)
    lean = layer.rotate(rng.normal(0, 2), Image.Resampling.BILINEAR, expand=False)
    layer = _lit(layer if name in ("house", "tower", "car") else lean, setting, haze)
    side, room = setting.side, 1 - setting.horizon
    x = rng.uniform(0.5 * min(layer.width, side), side - 0.5 * min(layer.width, side))
    foot = setting.horizon + room * np.clip(0.12 + 0.9 * height + rng.normal(0, 0.08), 0.06, 0.93)
    if name == "balloon":
        foot = np.clip(setting.horizon * rng.uniform(0.7, 1.2), 0.9 * height, 0.95)
    corner = (round(x - layer.width / 2), round(foot * side) - layer.height)
    if name != "balloon":
        _shadow(canvas, layer, corner, setting, haze)
    canvas.paste(layer, corner, layer)


def _lit(layer, setting, haze):
    """Brighter on top and towards the sun, darker below; with haze, closer to the sky's colour."""
    pixels = np.asarray(layer, np.float32)
    rows, columns = np.linspace(1.22, 0.72, layer.height), np.linspace(-1, 1, layer.width)
    light = rows[:, None] * (1 + 0.18 * setting.sun * columns[None, :])
    color = pixels[..., :3] * (light * setting.brightness)[..., None]
    color = color * (1 - haze) + np.float32(setting.low) * haze
    pixels = np.concatenate([color.clip(0, 255), pixels[..., 3:]], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8), "RGBA")


def _shadow(canvas, layer, corner, setting, haze):
    """The object's outline laid on the ground away from the sun; on water, its mirror image."""
    alpha = layer.getchannel("A").transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    flat = alpha.resize((layer.width, max(2, layer.height // 3)))
    slant = 0.0 if setting.look == "water" else 1.6 * setting.sun
    wide = layer.width + 2 * flat.height
    # Output to input: shifted more the farther a row is from the foot.
    shift = (1, slant, -flat.height, 0, 1, 0)
    mask = flat.transform((wide, flat.height), Image.Transform.AFFINE, shift)
    mask = mask.filter(ImageFilter.BoxBlur(0.012 * setting.side))
    mask = mask.point(lambda a: int(a * 0.5 * (1 - haze)))
    at = (corner[0] - flat.height, corner[1] + layer.height - 2)
    canvas.paste(shade(setting.ground, 0.3), at, mask)


def _foreground(canvas, setting, rng):
    """Draws branches, a fence or mist over an edge, so that corners do not reveal orientation."""
    pen, side, kind = ImageDraw.Draw(canvas), setting.side, rng.random()
    if kind < 0.2:
        tone = shade(setting.ground, rng.uniform(0.3, 0.8))
        left = rng.choice([0, side])
        for _ in range(rng.integers(25, 60)):
            x, y = left + rng.normal(0, 0.16) * side, abs(rng.normal(0, 0.07)) * side
            leaf = shade(tone, rng.uniform(0.7, 1.3))
            pen.ellipse(_box(x, y, 0.03 * side, 0.018 * side), fill=leaf)
    elif kind < 0.35:
        tone, foot = (
            shade(hsv(rng.random(), 0.25, 0.7), setting.brightness),
            rng.uniform(0.93, 1.05),
        )
        for y in (foot - 0.08, foot - 0.04):
            pen.line([(0, y * side), (side, y * side)], fill=shade(tone, 0.8), width=side // 50)
        for x in np.arange(rng.uniform(0, 0.1), 1, rng.uniform(0.09, 0.16)) * side:
            pen.line([(x, (foot - 0.11) * side), (x, foot * side)], fill=tone, width=side // 35)
    elif kind < 0.5:
        up = rng.random() < 0.5
        fade = np.linspace(1, 0, 32)[:, None] ** 1.5 * np.ones((1, 32)) * rng.uniform(100, 220)
        mask = Image.fromarray((fade if up else fade[::-1]).astype(np.uint8))
        canvas.paste(setting.low if up else setting.top, (0, 0), mask.resize(canvas.size))


def _develop(canvas, size, rng):
    """Downsamples and simulates a camera: exposure, a colour cast and noise."""
    pixels = np.asarray(canvas.reduce(FINER), np.float32)
    pixels = pixels * rng.uniform(0.85, 1.15) * rng.normal(1, 0.03, 3).astype(np.float32)
    pixels = pixels + rng.normal(0, rng.uniform(0.5, 4), (size, size, 1)).astype(np.float32)
    return pixels.clip(0, 255).astype(np.uint8)


def _enlarge(colors, side):
    small = Image.fromarray(np.clip(colors, 0, 255).astype(np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def _box(x, y, rx, ry):
    return [x - rx, y - ry, x + rx, y + ry]


def _mix(color, other, share):
    """A colour with a share in [0, 1] of another."""
    return _ints((1 - share) * np.array(color) + share * np.array(other))


def _ints(color):
    return tuple(int(part) for part in np.clip(color, 0, 255))
