"""Draws the three images that the ControlNet pipelines control with: edges, depth and a pose, as the published networks were shown
them. Needs Pillow and NumPy: `python pipelines/control/draw.py`."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 512
HERE = Path(__file__).parent


def canny():
    """A house, a tree and a fence: white edges, one pixel or two wide, on black."""
    image = Image.new("L", (SIDE, SIDE), 0)
    draw = ImageDraw.Draw(image)
    line = lambda *points: draw.line(points, fill=255, width=2)
    line((0, 392), (150, 384), (330, 388), (512, 378))
    draw.rectangle((96, 236, 296, 388), outline=255, width=2)
    draw.polygon(((76, 240), (196, 136), (316, 240)), outline=255, width=2)
    draw.rectangle((248, 152, 272, 202), outline=255, width=2)
    draw.rectangle((176, 304, 218, 388), outline=255, width=2)
    draw.ellipse((206, 344, 212, 350), outline=255)
    for left in (116, 238):
        draw.rectangle((left, 268, left + 40, 308), outline=255, width=2)
        line((left + 20, 268), (left + 20, 308))
        line((left, 288), (left + 40, 288))
    line((396, 384), (400, 296))
    line((424, 382), (418, 296))
    for left, top, right, bottom in ((350, 196, 420, 262), (392, 170, 466, 250), (412, 226, 480, 292), (346, 238, 424, 304)):
        draw.ellipse((left, top, right, bottom), outline=255, width=2)
    for left in range(8, 512, 48):
        draw.polygon(((left, 500), (left, 436), (left + 10, 424), (left + 20, 436), (left + 20, 500)), outline=255, width=2)
    for top in (448, 476):
        for left in range(28, 512, 48):
            line((left, top), (left + 28, top))
            line((left, top + 10), (left + 28, top + 10))
    draw.ellipse((30, 40, 88, 98), outline=255, width=2)
    image.save(HERE / "canny.png", optimize=True)


def depth():
    """A table top with a ball, a box and a cup before a wall: near is white, far is black."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    values = np.where(rows < 220, 40.0, 60 + 170 * np.clip((rows - 220) / (SIDE - 220), 0, 1))
    box = (rows > 176) & (rows < 336) & (columns > 52) & (columns < 196)
    values[box] = (112 + 24 * (columns - 52) / 144)[box]
    lid = (rows > 148) & (rows <= 176) & (columns > 52 + (176 - rows)) & (columns < 196 + (176 - rows))
    values[lid] = (84 + rows * 0.16)[lid]
    side = (columns >= 196) & (columns < 224) & (rows > 176 - (columns - 196)) & (rows < 336 - (columns - 196))
    values[side] = (136 - (columns - 196) * 1.6)[side]
    radius = np.hypot(rows - 336, columns - 318)
    ball = radius < 84
    values[ball] = (150 + 70 * np.sqrt(np.clip(1 - (radius / 84) ** 2, 0, 1)))[ball]
    across = (columns - 430) / 42
    cup = (rows > 300) & (rows < 452) & (np.abs(across) < 1)
    values[cup] = (186 + 44 * np.sqrt(np.clip(1 - across**2, 0, 1)))[cup]
    image = Image.fromarray(values.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.2))
    image.save(HERE / "depth.png", optimize=True)


# Joints of OpenPose's 18-point skeleton, a figure that dances, and its colours: joint i and bone i share one.
JOINTS = {
    0: (262, 96), 1: (256, 150), 2: (216, 154), 3: (160, 128), 4: (118, 76), 5: (298, 152), 6: (350, 190), 7: (404, 160), 8: (232, 282),
    9: (196, 368), 10: (216, 462), 11: (286, 280), 12: (340, 344), 13: (390, 428), 14: (252, 86), 15: (272, 86), 16: (238, 92),
    17: (286, 94),
}
BONES = [
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15),
    (15, 17),
]
COLOURS = [
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85), (0, 255, 170),
    (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
]


def pose():
    """The skeleton on black; bones are drawn at 0.6 of their colours, joints in full."""
    image = Image.new("RGB", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    for (start, end), colour in zip(BONES, COLOURS):
        draw.line((JOINTS[start], JOINTS[end]), fill=tuple(int(0.6 * value) for value in colour), width=8)
    for joint, (x, y) in JOINTS.items():
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=COLOURS[joint])
    image.quantize(64).convert("RGB").save(HERE / "pose.png", optimize=True)


if __name__ == "__main__":
    canny()
    depth()
    pose()
