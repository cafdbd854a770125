"""Draws the objects of the generated scenes, each with a foot and a top.

    layer = draw("house", height=120, rng=np.random.default_rng(0))    # RGBA, cropped to its box

Colours are independent of the class, so that classes differ only by shape. Does not import
TensorFlow, so that drawing processes start fast.
"""

import colorsys

import numpy as np
from PIL import Image, ImageDraw

DARK = (38, 36, 42)
GLASS = (150, 190, 215)
LAMPLIGHT = (255, 222, 130)


class Brush:
    """Draws in units of the object's height: x to the right of its middle, y up from its foot.

    Attributes:
        image: RGBA, twice as wide as the object is high, on a transparent background.
    """

    def __init__(self, height):
        self.image = Image.new("RGBA", (2 * height, height))
        self._draw = ImageDraw.Draw(self.image)
        self._height = height

    def polygon(self, points, color) -> None:
        self._draw.polygon([self._pixel(x, y) for x, y in points], fill=color)

    def box(self, left, bottom, right, top, color) -> None:
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], color)

    def ellipse(self, x, y, rx, ry, color) -> None:
        self._draw.ellipse([self._pixel(x - rx, y + ry), self._pixel(x + rx, y - ry)], fill=color)

    def dome(self, x, y, rx, ry, color) -> None:
        """The upper half of an ellipse, standing on y."""
        corners = [self._pixel(x - rx, y + ry), self._pixel(x + rx, y - ry)]
        self._draw.pieslice(corners, 180, 360, fill=color)

    def line(self, points, width, color) -> None:
        """A stroke with round ends and corners."""
        pixels = [self._pixel(x, y) for x, y in points]
        self._draw.line(pixels, fill=color, width=max(1, round(width * self._height)))
        for x, y in points:
            self.ellipse(x, y, width / 2, width / 2, color)

    def _pixel(self, x, y):
        return ((1 + x) * self._height, (1 - y) * (self._height - 1))


def draw(name, height, rng) -> Image.Image:
    """Draws one object.

    Args:
        name: one of OBJECTS.
        height: int, pixels from foot to top.
        rng: np.random.Generator; determines proportions, colours and direction.

    Returns:
        PIL RGBA image, cropped to the drawn columns; its last row is the foot.
    """
    brush = Brush(height)
    OBJECTS[name](brush, rng)
    left, _, right, _ = brush.image.getbbox()
    image = brush.image.crop((left, 0, right, height))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def color(rng, light=(0.35, 0.95), strength=(0.15, 0.85)) -> tuple:
    """A random (red, green, blue) of 0..255, of any hue."""
    return hsv(rng.random(), rng.uniform(*strength), rng.uniform(*light))


def hsv(hue, strength, light) -> tuple:
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, strength, light))


def shade(base, factor) -> tuple:
    """A darker (factor < 1) or lighter (> 1) tone of a colour."""
    return tuple(int(min(255, part * factor)) for part in base)


def tree(brush, rng) -> None:
    bark, leaves = color(rng, (0.25, 0.5), (0.2, 0.6)), color(rng, (0.35, 0.8))
    fork, spread = rng.uniform(0.3, 0.45), rng.uniform(0.22, 0.34)
    trunk = rng.uniform(0.035, 0.06)
    brush.polygon(
        [(-1.5 * trunk, 0), (1.5 * trunk, 0), (trunk, fork + 0.2), (-trunk, fork + 0.2)], bark
    )
    for side in (-1, 1):
        brush.line([(0, fork - 0.08), (side * spread * 0.6, fork + 0.15)], trunk, bark)
    middle, tall = (fork + 1) / 2 + 0.02, (1 - fork) / 2
    for tone, lift in [(0.7, -0.07), (1.0, 0.0), (1.25, 0.08)]:  # Lit from above.
        for angle in rng.uniform(0, 2 * np.pi) + np.arange(6) * np.pi / 3:
            x = 0.62 * spread * np.cos(angle) * (1 - abs(lift))
            y = middle + 0.5 * tall * np.sin(angle) + lift
            size = rng.uniform(0.4, 0.55) * min(spread, tall)
            brush.ellipse(x, min(y, 1 - size), size, size, shade(leaves, tone))


def house(brush, rng) -> None:
    wall, roof = color(rng, (0.5, 0.95), (0.05, 0.6)), color(rng, (0.25, 0.65))
    half, eaves = rng.uniform(0.4, 0.62), rng.uniform(0.5, 0.6)
    ridge, over = rng.uniform(0, 0.45) * half, rng.uniform(0.05, 0.1)
    chimney = half * rng.uniform(0.35, 0.6)
    brush.box(chimney, eaves, chimney + 0.1, rng.uniform(0.92, 1.0), shade(roof, 0.7))
    brush.box(-half, 0, half, eaves, wall)
    brush.polygon(
        [(-half - over, eaves - 0.03), (half + over, eaves - 0.03), (ridge, 0.95), (-ridge, 0.95)],
        roof,
    )
    brush.box(-half, eaves - 0.07, half, eaves - 0.03, shade(wall, 0.6))  # The roof's own shadow.
    door = rng.uniform(-0.12, 0.12)
    brush.box(door - 0.07, 0, door + 0.07, 0.32, shade(roof, 0.6))
    pane = LAMPLIGHT if rng.random() < 0.3 else shade(GLASS, rng.uniform(0.35, 1))
    for x in (-0.62 * half, 0.62 * half):
        brush.box(x - 0.09, 0.17, x + 0.09, 0.37, shade(wall, 1.3))
        brush.box(x - 0.07, 0.19, x + 0.07, 0.35, pane)
        brush.box(x - 0.11, 0.14, x + 0.11, 0.17, shade(wall, 0.6))


def person(brush, rng) -> None:
    skin = hsv(rng.uniform(0.03, 0.09), rng.uniform(0.3, 0.6), rng.uniform(0.35, 0.95))
    hair, shirt, trousers = color(rng, (0.1, 0.6)), color(rng), color(rng, (0.15, 0.7))
    stride, hip, shoulder = rng.uniform(0.04, 0.13), 0.47, 0.8
    for side in (-1, 1):
        foot = side * stride
        brush.line([(side * 0.05, hip), (foot * 0.9, 0.24), (foot, 0.04)], 0.085, trousers)
        brush.line([(foot, 0.025), (foot + 0.07, 0.025)], 0.05, DARK)
    if rng.random() < 0.35:
        brush.polygon([(-0.1, 0.6), (0.1, 0.6), (0.2, 0.3), (-0.2, 0.3)], shade(shirt, 0.85))
    for side in (-1, 1):
        elbow, hand = side * rng.uniform(0.18, 0.26), side * rng.uniform(0.12, 0.3)
        reach = rng.choice([0.42, 0.5, 0.9], p=[0.55, 0.25, 0.2])
        joint = (elbow, 0.62 if reach < 0.8 else 0.76)
        brush.line([(side * 0.11, shoulder - 0.03), joint, (hand, reach)], 0.06, shade(shirt, 0.85))
        brush.ellipse(hand, reach, 0.035, 0.035, skin)
    brush.polygon(
        [(-0.11, hip - 0.03), (0.11, hip - 0.03), (0.15, shoulder), (-0.15, shoulder)], shirt
    )
    brush.box(-0.03, shoulder - 0.02, 0.03, 0.85, shade(skin, 0.8))
    brush.ellipse(0, 0.905, 0.075, 0.09, skin)
    brush.dome(0, 0.92, 0.085, 0.08, hair)
    if rng.random() < 0.5:
        brush.box(-0.09, 0.8 if rng.random() < 0.5 else 0.86, -0.04, 0.93, hair)


def car(brush, rng) -> None:
    paint, half = color(rng), rng.uniform(0.85, 0.97)
    roof_left, roof_right = rng.uniform(-0.5, -0.3), rng.uniform(0.15, 0.35)
    brush.polygon([(-0.75, 0.5), (0.65, 0.5), (roof_right, 1), (roof_left, 1)], shade(paint, 1.15))
    pane = shade(GLASS, rng.uniform(0.3, 1))
    middle = (roof_left + roof_right) / 2
    brush.polygon(
        [(-0.58, 0.56), (middle - 0.04, 0.56), (middle - 0.04, 0.9), (roof_left + 0.03, 0.9)], pane
    )
    brush.polygon(
        [(middle + 0.04, 0.56), (0.5, 0.56), (roof_right - 0.03, 0.9), (middle + 0.04, 0.9)], pane
    )
    brush.polygon([(-half, 0.2), (half, 0.2), (half, 0.42), (0.62, 0.56), (-half, 0.56)], paint)
    brush.box(-half, 0.18, half, 0.27, shade(paint, 0.6))
    brush.ellipse(half - 0.05, 0.4, 0.05, 0.06, LAMPLIGHT)
    brush.box(-half, 0.38, -half + 0.06, 0.48, (190, 40, 40))
    hub = color(rng, (0.6, 0.9), (0, 0.2))
    for x in (-0.54, 0.52):
        brush.ellipse(x, 0.2, 0.24, 0.24, shade(paint, 0.35))
        brush.ellipse(x, 0.19, 0.19, 0.19, DARK)
        brush.ellipse(x, 0.19, 0.09, 0.09, hub)


def dog(brush, rng) -> None:
    fur, length, leg = (
        color(rng, (0.25, 0.9), (0.1, 0.6)),
        rng.uniform(0.4, 0.55),
        rng.uniform(0.3, 0.42),
    )
    back = leg + rng.uniform(0.26, 0.32)
    for x, tone in [(-length, 0.7), (length - 0.16, 0.7), (-length + 0.13, 1), (length - 0.02, 1)]:
        brush.line([(x, leg + 0.08), (x + rng.uniform(-0.05, 0.05), 0.045)], 0.09, shade(fur, tone))
    tail = back + rng.uniform(0.05, 0.25)
    brush.line(
        [
            (-length - 0.02, back - 0.06),
            (-length - 0.12, (back + tail) / 2),
            (-length - 0.14, tail),
        ],
        0.06,
        fur,
    )
    brush.line([(-length + 0.06, back - 0.13), (length - 0.06, back - 0.11)], 0.27, fur)
    brush.line(
        [(-length + 0.06, back - 0.23), (length - 0.08, back - 0.21)], 0.08, shade(fur, 0.75)
    )
    brush.line([(length - 0.04, back - 0.08), (length + 0.1, 0.8)], 0.18, fur)
    brush.ellipse(length + 0.14, 0.82, 0.15, 0.13, fur)
    brush.line([(length + 0.2, 0.78), (length + 0.32, 0.76)], 0.1, shade(fur, 1.1))
    brush.ellipse(length + 0.36, 0.785, 0.035, 0.03, DARK)
    brush.ellipse(length + 0.2, 0.86, 0.022, 0.022, DARK)
    ear = shade(fur, 0.55)
    if rng.random() < 0.5:
        brush.line([(length + 0.06, 0.9), (length - 0.02, 0.74)], 0.08, ear)
    else:
        brush.polygon([(length + 0.02, 0.88), (length + 0.14, 0.92), (length + 0.06, 1)], ear)


def boat(brush, rng) -> None:
    hull, sail = color(rng, (0.25, 0.8)), color(rng, (0.6, 1.0), (0.0, 0.6))
    mast, half = rng.uniform(-0.1, 0.1), rng.uniform(0.42, 0.6)
    brush.line([(mast, 0.2), (mast, 0.98)], 0.025, shade(hull, 0.6))
    brush.polygon([(mast + 0.03, 0.3), (half * 0.95, 0.32), (mast + 0.03, 0.95)], sail)
    brush.polygon([(mast - 0.03, 0.32), (-half * 0.8, 0.34), (mast - 0.03, 0.85)], shade(sail, 0.8))
    brush.polygon([(-half, 0.24), (half + 0.08, 0.26), (half * 0.7, 0), (-half * 0.75, 0)], hull)
    brush.polygon(
        [(-half, 0.24), (half + 0.08, 0.26), (half + 0.03, 0.2), (-half, 0.18)], shade(hull, 1.5)
    )
    if rng.random() < 0.6:
        brush.polygon([(mast, 0.98), (mast, 0.91), (mast - 0.13, 0.94)], color(rng))


def tower(brush, rng) -> None:
    stone, half, top = (
        color(rng, (0.4, 0.85), (0.05, 0.5)),
        rng.uniform(0.12, 0.18),
        rng.uniform(0.68, 0.76),
    )
    brush.polygon([(-half * 1.15, 0), (half * 1.15, 0), (half, top), (-half, top)], stone)
    for row in np.arange(0.1, top, 0.12):
        shift = rng.uniform(-0.5, 0.5) * half
        brush.box(shift - 0.05, row, shift + 0.05, row + 0.025, shade(stone, 0.8))
    wide = half * 1.35
    brush.box(-wide, top, wide, top + 0.06, shade(stone, 1.1))
    brush.box(-wide, top - 0.02, wide, top, shade(stone, 0.55))
    if rng.random() < 0.5:
        brush.polygon(
            [(-wide - 0.03, top + 0.06), (wide + 0.03, top + 0.06), (0, 0.99)],
            color(rng, (0.3, 0.7)),
        )
    else:
        for x in np.linspace(-wide, wide - 0.08, 4):
            brush.box(x, top + 0.06, x + 0.07, top + 0.13, shade(stone, 1.1))
        brush.line([(0, top + 0.06), (0, 0.98)], 0.02, DARK)
        brush.polygon([(0, 0.98), (0, 0.87), (0.2, 0.92)], color(rng))
    for y in (top * 0.82, top * 0.5):
        brush.box(-0.035, y - 0.08, 0.035, y, DARK)
        brush.dome(0, y, 0.036, 0.04, DARK)
    brush.box(-0.065, 0, 0.065, 0.13, DARK)
    brush.dome(0, 0.125, 0.066, 0.06, DARK)


def flower(brush, rng) -> None:
    stem, petals = color(rng, (0.25, 0.65)), color(rng, (0.55, 1.0), (0.2, 0.95))
    bend, head = rng.uniform(-0.08, 0.08), 0.74
    brush.line([(0, 0), (bend * 0.3, 0.3), (bend, head)], 0.04, stem)
    for side, y in [(-1, 0.12), (1, rng.uniform(0.2, 0.3))]:
        tip = (side * rng.uniform(0.22, 0.3), y + rng.uniform(0.14, 0.22))
        brush.polygon(
            [(0, y), (side * 0.16, y + 0.02), tip, (side * 0.08, y + 0.13)], shade(stem, 1.25)
        )
    count, size = rng.integers(5, 9), rng.uniform(0.085, 0.105)
    for angle in rng.uniform(0, 6.28) + np.arange(count) * 2 * np.pi / count:
        x, y = bend + 0.15 * np.cos(angle), head + 0.15 * np.sin(angle)
        brush.ellipse(x, y, size, size, shade(petals, 1 + 0.2 * np.sin(angle)))
    brush.ellipse(bend, head, 0.095, 0.095, color(rng, (0.3, 0.9)))


def windmill(brush, rng) -> None:
    wall, sails = color(rng, (0.5, 0.95), (0.05, 0.5)), color(rng, (0.4, 1), (0.0, 0.4))
    hub = 0.65
    brush.polygon([(-0.19, 0), (0.19, 0), (0.11, 0.66), (-0.11, 0.66)], wall)
    brush.dome(0, 0.65, 0.13, 0.13, shade(wall, 0.55))
    brush.box(-0.05, 0, 0.05, 0.16, shade(wall, 0.4))
    brush.box(-0.035, 0.33, 0.035, 0.42, shade(wall, 0.4))
    for angle in rng.uniform(0.25, 1.32) + np.arange(4) * np.pi / 2:
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        sail = np.array([(0.07, 0), (0.34, 0), (0.34, 0.085), (0.07, 0.085)]) @ turn
        brush.polygon([(x, hub + y) for x, y in sail], sails)
        brush.line([(0, hub), (sail[1][0], hub + sail[1][1])], 0.022, shade(sails, 0.5))
    brush.ellipse(0, hub, 0.035, 0.035, DARK)


def balloon(brush, rng) -> None:
    first, second, half = color(rng), color(rng), rng.uniform(0.31, 0.37)
    middle, throat = 0.64, 0.22
    for part, tone in [(1.0, first), (0.66, second), (0.3, first)]:
        brush.ellipse(0, middle, part * half, 0.355, tone)
        skirt = [
            (-part * half * 0.93, 0.52),
            (part * half * 0.93, 0.52),
            (part * 0.1, throat),
            (-part * 0.1, throat),
        ]
        brush.polygon(skirt, tone)
    for side in (-1, 1):
        brush.line([(side * 0.09, throat), (side * 0.06, 0.12)], 0.012, DARK)
    brush.box(-0.075, 0, 0.075, 0.12, color(rng, (0.3, 0.55), (0.4, 0.7)))
    brush.box(-0.085, 0.1, 0.085, 0.13, DARK)


def cactus(brush, rng) -> None:
    skin, thick = color(rng, (0.3, 0.75)), rng.uniform(0.15, 0.2)
    column = [(0, 0.02), (0, 0.98 - thick / 2)]
    arms = []
    for side in (-1, 1):
        y, reach, arm = rng.uniform(0.3, 0.5), rng.uniform(0.24, 0.32), 0.66 * thick
        arms.append([(0, y), (side * reach, y), (side * reach, y + rng.uniform(0.2, 0.32))])
        brush.line(arms[-1], arm, shade(skin, 0.9))
    brush.line(column, thick, skin)
    for x in (-0.25, 0.05, 0.33):
        brush.line([(x * thick, 0.03), (x * thick, 0.9)], 0.014, shade(skin, 0.6))
    if rng.random() < 0.4:
        for _, _, (x, y) in arms:
            brush.ellipse(x, y + 0.06, 0.04, 0.04, color(rng, (0.8, 1)))


def mushroom(brush, rng) -> None:
    cap, stem = color(rng, (0.4, 0.95), (0.3, 0.9)), color(rng, (0.7, 1.0), (0.0, 0.25))
    rim, half = rng.uniform(0.45, 0.55), rng.uniform(0.42, 0.55)
    brush.polygon([(-0.15, 0.03), (0.15, 0.03), (0.1, rim + 0.1), (-0.1, rim + 0.1)], stem)
    brush.ellipse(0, 0.045, 0.155, 0.045, stem)
    brush.ellipse(0, rim, half, 0.09, shade(stem, 0.55))
    brush.dome(0, rim, half, 0.99 - rim, cap)
    for x, y in [(-0.5, 0.25), (0.05, 0.6), (0.55, 0.3), (-0.1, 0.2), (0.3, 0.68), (-0.35, 0.62)]:
        size = rng.uniform(0.03, 0.065)
        brush.ellipse(x * half, rim + y * (1 - rim), size, size * 0.8, shade(stem, 1.05))


# Most frequent first.
OBJECTS = {
    "tree": tree,
    "house": house,
    "person": person,
    "car": car,
    "dog": dog,
    "boat": boat,
    "tower": tower,
    "flower": flower,
    "balloon": balloon,
    "windmill": windmill,
    "cactus": cactus,
    "mushroom": mushroom,
}
