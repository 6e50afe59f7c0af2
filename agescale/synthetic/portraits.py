"""Drawn faces with a known age: the demo and the tests need no download, and no real person is shown.

In: a random generator, an age in years, a gender and a palette. Out: one picture or, with ``write_dataset``, a folder
of them in any of the layouts, with the troubles of real folders. They are cartoons: what learns from them knows nothing
about people, and the four palettes differ in colours only. Lengths are fractions of the picture's side, measured from
its centre, x to the right and y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageColor, ImageDraw

GENDERS = ("female", "male")
OVERSAMPLING = 2


def _colours(names: str) -> np.ndarray:
    return np.array([ImageColor.getrgb(f"#{name}") for name in names.split()], dtype=float)


DARK_HAIR, DARK_IRIS = _colours("262024 262024 543626"), _colours("54361e 3e2a20")
PALETTES = {  # skin from the lighter to the darker, hair, iris
    "White": (_colours("ffe2cd f0c4a8"), _colours("543626 805030 e0b86c c46230"), _colours("54361e 4a76a8 5c8454")),
    "Black": (_colours("966242 5c3a2a"), DARK_HAIR, DARK_IRIS),
    "Asian": (_colours("fcddb2 e8bc8a"), DARK_HAIR, DARK_IRIS),
    "Indian": (_colours("d69e70 aa724c"), DARK_HAIR, DARK_IRIS),
}
ETHNICITIES = tuple(PALETTES)
CLOTHES = _colours("e86c5c 568cc4 f6be54 6eac80 9476b8 465470 ece4d6")
BACKGROUNDS = _colours("bcd8e8 fae2be cee2c8 f0d0d0 d8d0ec e8e8e2 7896a8")
GREY, WHITE, INK, ROSE, LIPS, MOUTH, GOLD, SALLOW = _colours("dedee2 fcfcfa 2e2226 de545c be3242 7a2830 f6ce5c d6c4b0")
FRAMES = _colours("2e2226 965830 a82c38")
STYLES = {  # of hair, and how often
    "female": {"long": 0.35, "bob": 0.25, "bun": 0.15, "curly": 0.15, "short": 0.1},
    "male": {"short": 0.46, "side": 0.28, "curly": 0.2, "bob": 0.03, "long": 0.03},
}


@dataclass(frozen=True)
class Subject:
    """What a person keeps through life: colours, shapes (standard normal), years by which signs of age come early."""

    gender: str
    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    style: str
    is_bearded: bool
    width: float
    jaw: float
    eyes: float
    nose: float
    mouth: float
    greying_years: float
    wrinkling_years: float
    balding_years: float


class Pen:
    """Draws points under a pose, on an oversampled canvas."""

    def __init__(self, size: int, background: np.ndarray, turn: float, scale: float, shift: np.ndarray) -> None:
        self.side = size * OVERSAMPLING
        self.image = Image.new("RGB", (self.side, self.side), tuple(background.astype(int)))
        self.canvas = ImageDraw.Draw(self.image, "RGBA")
        self.pose = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) * scale * self.side
        self.origin = (shift + 0.5) * self.side

    def fill(self, points: np.ndarray, colour: np.ndarray, alpha: float = 1.0) -> None:
        self.canvas.polygon(self._pixels(points), fill=(*colour.astype(int), round(255 * alpha)))

    def stroke(self, points: np.ndarray, colour: np.ndarray, width: float = 0.008, alpha: float = 1.0) -> None:
        thickness = max(1, round(width * self.side))
        self.canvas.line(self._pixels(points), fill=(*colour.astype(int), round(255 * alpha)), width=thickness)

    def _pixels(self, points: np.ndarray) -> list[float]:
        return list((points @ self.pose + self.origin).ravel().tolist())


class Face:
    """One subject at one age, in one pose: colours, the proportions of the head, and where the features stand."""

    def __init__(self, rng: Generator, subject: Subject, age: float, size: int) -> None:
        self.rng, self.subject, self.is_female = rng, subject, subject.gender == "female"
        self.age = max(0.0, age * (1 + 0.04 * rng.normal()) + 0.6 * rng.normal())  # people look younger or older
        self.grown = _ramp(self.age, 0, 20) ** 0.6
        self.worn = _ramp(self.age + subject.wrinkling_years, 40, 95)
        self.bald = _ramp(self.age + subject.balding_years, 30, 85) * _ramp(self.age, 20, 40)
        self.bald *= 0.25 if self.is_female else 1.0
        self.skin = _mix(subject.skin, SALLOW, 0.18 * self.worn)
        self.hair = _mix(subject.hair, GREY, _ramp(self.age + subject.greying_years, 33, 76))
        self.line = _mix(self.skin, INK, 0.4)
        male = 0.0 if self.is_female else self.grown
        self.width = _mix(0.265, 0.238, self.grown) + 0.008 * subject.width + 0.008 * male
        self.crown = _mix(0.285, 0.31, self.grown)  # up from the centre
        self.chin = _mix(0.235, 0.325, self.grown) + 0.008 * subject.jaw + 0.008 * male  # down from the centre
        self.squareness = _mix(0.8, 0.84, self.grown) - 0.1 * male + 0.03 * subject.jaw
        self.neck = _mix(0.09, 0.125, self.grown) + 0.025 * male
        self.shoulders = _mix(0.3, 0.44, self.grown) + 0.05 * male
        self.eye_x, self.eye_y = _mix(0.118, 0.104, self.grown), _mix(0.065, -0.005, self.grown)
        self.eye_radius = _mix(0.058, 0.041, self.grown) + 0.003 * subject.eyes
        self.nose_y, self.mouth_y = (self.eye_y + part * (self.chin - self.eye_y) for part in (0.46, 0.69))
        self.yaw = np.array([0.02 * rng.normal(), 0.0])  # a turned head: its features stand to one side
        shift = rng.normal(0, (0.02, 0.015))
        background = _mix(rng.choice(BACKGROUNDS), rng.choice(BACKGROUNDS), rng.random())
        self.pen = Pen(size, background, 0.09 * rng.normal(), rng.uniform(0.94, 1.12), shift)

    def outline(self, start: float = 0.0, stop: float = 2 * np.pi) -> np.ndarray:
        """The head's points from angle ``start`` to ``stop``: 0 is the right side, pi/2 the chin, 3/2 pi the crown."""
        cos, sin = np.cos(np.linspace(start, stop, 56)), np.sin(np.linspace(start, stop, 56))
        slope = np.arcsin(sin)
        x = np.sign(cos) * np.abs(cos) ** np.where(sin > 0, self.squareness, 1.0)
        cheeks, jowls = 0.13 * (1 - self.grown) * _bump(slope, 0.55, 0.35), 0.12 * self.worn * _bump(slope, 0.95, 0.22)
        return np.stack([self.width * x * (1 + cheeks + jowls), np.where(sin > 0, self.chin, self.crown) * sin], axis=1)


def draw_face(rng: Generator, age: float, gender: str, ethnicity: str, size: int = 128) -> Image.Image:
    """A new person of ``age`` years (0..100) as an RGB picture, ``size`` pixels a side. Their age shows, not exactly.

    Raises ValueError for an unknown gender or ethnicity.
    """
    return draw_portrait(rng, draw_subject(rng, gender, ethnicity), age, size)


def draw_subject(rng: Generator, gender: str, ethnicity: str) -> Subject:
    """A person, whom ``draw_portrait`` shows at any age."""
    if gender not in GENDERS or ethnicity not in ETHNICITIES:
        raise ValueError(f"{gender!r}, {ethnicity!r}: gender is one of {GENDERS}, ethnicity one of {ETHNICITIES}")
    skins, hairs, irises = PALETTES[ethnicity]
    skin = _mix(skins[0], skins[1], rng.random())
    hair = _mix(rng.choice(hairs), rng.choice(hairs), 0.3 * rng.random())
    style = str(rng.choice(list(STYLES[gender]), p=list(STYLES[gender].values())))
    is_bearded = bool(gender == "male" and rng.random() < 0.4)
    traits = rng.normal(size=8).clip(-2, 2) * (1, 1, 1, 1, 1, 5, 3, 12)
    return Subject(gender, skin, hair, rng.choice(irises), style, is_bearded, *traits.tolist())


def draw_portrait(rng: Generator, subject: Subject, age: float, size: int = 128) -> Image.Image:
    """``subject`` at ``age``; ``rng`` decides pose, light, background, clothes, expression and accessories."""
    face = Face(rng, subject, age, size)
    for _ in range(rng.integers(0, 4)):
        x, y, radius = rng.uniform((-0.6, -0.6, 0.1), (0.6, 0.5, 0.4))
        face.pen.fill(_oval(x, y, radius, radius), rng.choice(BACKGROUNDS), 0.5)
    _draw_hair_behind(face)
    _draw_body(face)
    _draw_head(face)
    _draw_wrinkles(face)
    _draw_beard(face)
    _draw_nose(face)
    _draw_mouth(face)
    _draw_eye(face, -1)
    _draw_eye(face, 1)
    _draw_hair(face)
    _draw_glasses(face)
    _draw_accessories(face)
    return _light(face.pen.image.reduce(OVERSAMPLING), rng)


def _draw_hair_behind(face: Face) -> None:
    colour, width = _mix(face.hair, INK, 0.12), face.width + 0.055
    length = {"long": 0.46, "bob": 0.23}.get(face.subject.style, 0.0) * _ramp(face.age, 1.5, 6)
    if length > 0:
        face.pen.fill(_oval(0, -0.06, width, face.crown - 0.02), colour)
        half = _points((width, -0.06), (width + 0.02, length - 0.05), (width - 0.02, length))
        face.pen.fill(_closed(half, half[::-1] * (-1, 1)), colour)
    if face.subject.style == "bun" and face.age > 3:
        face.pen.fill(_oval(0, -face.crown - 0.075, 0.085, 0.075), colour)


def _draw_body(face: Face) -> None:
    shirt, neck, collar_y = face.rng.choice(CLOTHES), face.neck, face.chin + 0.07
    body = _oval(0, collar_y + 0.4, face.shoulders, 0.4)
    face.pen.fill(body, shirt)
    face.pen.stroke(body, _mix(shirt, INK, 0.3))
    face.pen.fill(_points((-neck, 0.1), (neck, 0.1), (neck, collar_y + 0.02), (-neck, collar_y + 0.02)), face.skin)
    face.pen.fill(_oval(0, collar_y + 0.02, neck * 1.1, 0.045), face.skin)
    face.pen.fill(face.outline() * (0.88, 1.03) + _points(0, 0.025), _mix(face.skin, INK, 0.3), 0.6)  # the shadow
    for line, onset in enumerate((44, 58)):
        strength = _ramp(face.age + face.subject.wrinkling_years, onset, onset + 30)
        face.pen.stroke(_curve(0, collar_y - 0.015 + 0.024 * line, neck * 0.8, 0.012), face.line, alpha=strength)


def _draw_head(face: Face) -> None:
    ear = 0.042 + 0.014 * face.grown + 0.016 * _ramp(face.age, 50, 95)
    for side in (-1, 1):
        x, y = side * (face.width + 0.008) - 0.5 * face.yaw[0], face.eye_y + 0.04
        face.pen.fill(_oval(x, y, ear * 0.62, ear), face.skin)
        face.pen.stroke(_oval(x, y, ear * 0.62, ear), face.line)
        face.pen.stroke(_oval(x, y, ear * 0.3, ear * 0.55), face.line, 0.006, 0.6)
    face.pen.fill(face.outline(), face.skin)
    face.pen.stroke(face.outline(), face.line)
    for side in (-1, 1):
        blush = _oval(side * face.width * 0.62, face.nose_y + 0.02, 0.052, 0.036) + face.yaw
        face.pen.fill(blush, _mix(face.skin, ROSE, 0.8), 0.34 - 0.26 * _ramp(face.age, 0, 24))
    pimples, age_spots = 6 * _ramp(face.age, 11, 14) * _ramp(-face.age, -23, -18), 14 * _ramp(face.age, 55, 95)
    for number, radius, colour in ((pimples, 0.008, ROSE), (age_spots, 0.011, INK)):
        for x, y in face.rng.uniform((-0.75, 0), (0.75, 0.6), (round(number * face.rng.random()), 2)):
            spot = _oval(x * face.width, y * face.chin, radius, radius) + face.yaw
            face.pen.fill(spot, _mix(face.skin, colour, 0.35), 0.7)


def _draw_wrinkles(face: Face) -> None:
    """Every line has an age at which it comes; then it deepens for thirty years."""

    def crease(onset: float, points: np.ndarray, width: float = 0.01) -> None:
        strength = _ramp(face.age + face.subject.wrinkling_years + 2 * face.rng.normal(), onset, onset + 30)
        if strength > 0:
            face.pen.stroke(points + face.yaw, _mix(face.skin, INK, 0.55), width, 0.85 * strength**0.7)

    for line in range(5):  # the forehead
        crease(27 + 9 * line, _curve(0, face.eye_y - 0.115 - 0.026 * line, 0.13 - 0.012 * line, -0.012))
    for x in (-0.03, -0.01, 0.01, 0.03):  # the upper lip
        crease(70, _points((x, face.mouth_y - 0.042), (x * 0.9, face.mouth_y - 0.02)), 0.007)
    for side in ((-1, 1), (1, 1)):
        for line in range(4):  # crow's feet
            lift, start_x = 0.018 * (line - 1.5), face.eye_x + face.eye_radius + 0.012
            crows_foot = _points((start_x, face.eye_y + 0.5 * lift), (start_x + 0.036, face.eye_y + 1.5 * lift))
            crease(29 + 9 * line, crows_foot * side, 0.008)
        for line in range(2):  # bags under the eyes
            y = face.eye_y + face.eye_radius + 0.004 + 0.016 * line
            crease(38 + 18 * line, _curve(face.eye_x, y, face.eye_radius * 0.8, 0.016) * side)
        crease(29, _points((0.055, face.nose_y), (0.085, face.nose_y + 0.03), (0.1, face.mouth_y - 0.01)) * side)
        y = face.mouth_y + 0.04
        crease(50, _points((0.088, y - 0.025), (0.096, y), (0.09, y + 0.025)) * side)
        for line in range(3):  # the cheeks
            x, y = face.width * (0.62 + 0.11 * line), face.nose_y + 0.04
            crease(62 + 7 * line, _points((x, y - 0.03), (x + 0.012, y), (x, y + 0.045)) * side, 0.008)


def _draw_beard(face: Face) -> None:
    if face.is_female or face.age < 17:
        return
    is_full = face.subject.is_bearded and face.age > 22
    half = _points((0.17, face.mouth_y - 0.06), (0.1, face.mouth_y - 0.04), (0.03, face.mouth_y - 0.052))
    moustache = np.concatenate([half * (-1, 1), half[::-1]])
    area = np.concatenate([face.outline(-0.05, np.pi + 0.05) * 1.012, moustache + face.yaw])
    face.pen.fill(area, face.hair, 0.9 if is_full else 0.22 * face.rng.random())


def _draw_nose(face: Face) -> None:
    width = 0.024 + 0.012 * face.grown + 0.004 * face.subject.nose + 0.008 * _ramp(face.age, 40, 95)
    face.pen.fill(_oval(0, face.nose_y - 0.006, width, width * 0.7) + 1.5 * face.yaw, _mix(face.skin, ROSE, 0.2), 0.6)
    face.pen.stroke(_curve(0, face.nose_y, width, 0.02) + 1.5 * face.yaw, face.line, 0.009)
    bridge = _points((0.35 * width, face.eye_y + 0.02), (0.7 * width, face.nose_y - 0.025))
    face.pen.stroke(bridge + 1.5 * face.yaw, face.line, 0.007, 0.7 * face.grown)


def _draw_mouth(face: Face) -> None:
    x, y = face.yaw[0], face.mouth_y
    width = 0.046 + 0.032 * _ramp(face.age, 0, 18) + 0.006 * face.subject.mouth
    smile = 0.026 * face.rng.random() + 0.01 - 0.016 * _ramp(face.age, 50, 95)
    fullness = 0.012 - 0.008 * _ramp(face.age, 40, 95) + 0.005 * face.is_female
    lips = _mix(face.skin, LIPS, 0.75 if face.is_female and face.age > 14 else 0.4)
    between = _curve(x, y, width, smile)
    if face.rng.random() < 0.65:
        face.pen.fill(_closed(_curve(x, y, width, -fullness), _curve(x, y, width, smile + 2 * fullness)[::-1]), lips)
        face.pen.stroke(between, _mix(face.skin, INK, 0.6))
        return
    opening = _closed(_curve(x, y, width, 0.006), _curve(x, y, width, 0.06 + smile)[::-1])
    face.pen.fill(opening, MOUTH)
    if face.age > 1.5:
        face.pen.fill(_closed(_curve(x, y, width * 0.86, 0.008), _curve(x, y, width * 0.86, 0.03)[::-1]), WHITE)
    if 5 < face.age < 9:  # a milk tooth is out
        face.pen.fill(_oval(x + 0.012, y + 0.016, 0.01, 0.014), MOUTH)
    face.pen.stroke(opening, lips, 0.009)


def _draw_eye(face: Face, side: int) -> None:
    x, y, radius = side * face.eye_x + face.yaw[0], face.eye_y, face.eye_radius
    height, outline = radius * _mix(0.86, 0.66, face.grown), _mix(face.skin, INK, 0.8)
    face.pen.fill(_oval(x, y, radius, height), WHITE)
    for part, colour in ((0.8, face.subject.iris), (0.42, INK)):
        face.pen.fill(_oval(x, y, part * height, part * height), colour)
    face.pen.fill(_oval(x + 0.25 * height, y - 0.3 * height, 0.22 * height, 0.22 * height), WHITE)
    lid_y = y - height * (0.98 - 0.55 * face.worn)
    lid = _curve(x, lid_y + 0.35 * height, radius * 1.06, -0.35 * height)
    fold = _curve(x, y - 0.1 * height, radius * 1.1, -1.1 * height)
    face.pen.fill(_closed(lid, fold[::-1]), _mix(face.skin, INK, 0.1))
    face.pen.stroke(lid, outline, 0.016 if face.is_female and face.age > 12 else 0.011)
    for reach in (0.75, 1.0) if face.is_female else ():  # lashes
        root_x, tip_x = x + side * radius * reach, x + side * radius * (reach + 0.28)
        face.pen.stroke(_points((root_x, lid_y + 0.3 * height), (tip_x, lid_y - 0.012)), outline, 0.009)
    brow_y, thickness = (
        y - radius - 0.026 + 0.012 * face.worn,
        0.008 + (0.006 if face.is_female else 0.016) * face.grown,
    )
    brow = _points((-radius, 0.004), (-0.1 * radius, -0.008), (radius, 0.012)) * (side, 1) + _points(x, brow_y)
    face.pen.stroke(brow, _mix(face.hair, INK, 0.25), thickness, 0.5 + 0.45 * _ramp(face.age, 0, 6))


def _draw_hair(face: Face) -> None:
    """What lies between the scalp and the hairline, which comes down in the first years and goes up in the last."""
    style, bald, grown = face.subject.style, face.bald, _ramp(face.age, 0, 3)
    across = np.linspace(-1, 1, 41)
    off_centre = np.abs(across)
    scalp = -face.crown * np.sqrt(1 - across**2)
    level = _mix(_mix(0.93, 0.62 if face.is_female else 0.66, grown), 1.12, bald) * face.crown
    hairline = -level + (0.06 + level) * off_centre ** _mix(3.2, 7, bald) - 0.12 * bald * _bump(off_centre, 0.6, 0.2)
    if style in ("side", "bob"):
        hairline += 0.05 * grown * (1 - bald) * across * (1 - off_centre)
    hairline = np.maximum(hairline, scalp)
    cover = np.clip((hairline - scalp) / 0.06, 0, 1)
    puff = {"curly": 0.035, "short": 0.032}.get(style, 0.045) * _mix(0.2, 1, grown) * (1 - 0.4 * bald)
    outer = np.stack([across * (face.width + puff * cover), scalp - puff * cover], axis=1)
    inner = np.stack([across * face.width + 0.5 * face.yaw[0] * (1 - off_centre), hairline], axis=1)
    face.pen.fill(np.concatenate([outer, inner[::-1]]), face.hair, _mix(0.55, 1, grown))
    strand = _mix(face.hair, INK if face.hair.sum() > 330 else WHITE, 0.1)
    if style == "curly" and face.age > 1.5:
        for index in np.flatnonzero(cover > 0.5)[::2]:
            curl = CIRCLE * (0.052 - 0.02 * bald) + _mix(inner[index], outer[index], 0.75)
            face.pen.fill(curl, face.hair if index % 4 else strand)
    else:
        for index in range(3, 38, 3):
            lock = np.stack([outer[index], inner[index]]) * (0.97, 1)
            face.pen.stroke(lock, strand, 0.006, 0.7 * cover[index] * grown)
    if face.age < 3:  # a baby's one curl
        face.pen.stroke(_oval(0.01, -face.crown - 0.012, 0.022, 0.03)[4:], face.hair, 0.009)


def _draw_glasses(face: Face) -> None:
    if face.age < 4 or face.rng.random() > 0.06 + 0.5 * _ramp(face.age, 35, 90):
        return
    frame, radius, y = face.rng.choice(FRAMES), max(0.062, face.eye_radius + 0.014), face.eye_y
    for side in (-1, 1):
        lens = _oval(side * face.eye_x, y, radius, radius * 0.86) + face.yaw
        face.pen.fill(lens, WHITE, 0.12)
        face.pen.stroke(lens, frame, 0.011)
        hinge = side * (face.eye_x + radius) + face.yaw[0]
        face.pen.stroke(_points((hinge, y), (side * face.width, y - 0.01)), frame, 0.011)
    face.pen.stroke(_curve(0, y, face.eye_x - radius, -0.008) + face.yaw, frame, 0.011)


def _draw_accessories(face: Face) -> None:
    has_earrings, has_bow, has_dummy, has_hat = face.rng.random(4) < (0.4, 0.4, 0.25, 0.07)
    colour = face.rng.choice(CLOTHES)
    if has_earrings and face.is_female and face.age > 7:
        for side in (-1, 1):
            face.pen.fill(_oval(side * (face.width + 0.012), face.eye_y + 0.115, 0.014, 0.018), GOLD)
    if has_bow and face.is_female and face.age < 11:
        bow = _points((-0.065, -0.04), (0.065, 0.04), (0.065, -0.04), (-0.065, 0.04)) + _points(0.1, -0.93 * face.crown)
        face.pen.fill(bow, ROSE)
        face.pen.fill(_oval(0.1, -face.crown * 0.93, 0.018, 0.02), _mix(ROSE, INK, 0.2))
    if has_dummy and face.age < 2.5:
        face.pen.fill(_oval(0, face.mouth_y, 0.06, 0.042) + face.yaw, colour)
        face.pen.fill(_oval(0, face.mouth_y, 0.026, 0.022) + face.yaw, WHITE)
    if has_hat:  # hides the hair at any age
        cap, trim = face.outline(np.pi - 0.35, 2 * np.pi + 0.35) * 1.16 - _points(0, 0.02), _mix(colour, WHITE, 0.35)
        face.pen.fill(cap[cap[:, 1] < -0.13], colour)
        face.pen.fill(_points((-1.12, -0.2), (1.12, -0.2), (1.14, -0.12), (-1.14, -0.12)) * (face.width, 1), trim)
        face.pen.fill(_oval(0, -face.crown * 1.16 - 0.03, 0.045, 0.045), trim)


def _light(image: Image.Image, rng: Generator) -> Image.Image:
    """Light from one side, exposure, a colour cast and the sensor's noise."""
    pixels, ramp = np.asarray(image, dtype=np.float32), np.linspace(-1, 1, image.width, dtype=np.float32)
    slope_x, slope_y = rng.normal(0, 0.09, 2).astype(np.float32)
    light = (1 + slope_x * ramp[None, :] + slope_y * ramp[:, None])[:, :, None]
    cast = (rng.normal(1, 0.022, 3) * rng.normal(0.98, 0.06)).astype(np.float32)
    noise = rng.standard_normal((image.height, image.width, 1), dtype=np.float32) * rng.uniform(0, 5)
    return Image.fromarray((pixels * light * cast + noise).clip(0, 255).astype(np.uint8))


def _ramp(value: float, low: float, high: float) -> float:
    """0 up to ``low``, 1 from ``high`` on, straight between."""
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _bump(value: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.exp(-(((value - centre) / width) ** 2))


def _mix(start, stop, part: float):  # type: ignore[no-untyped-def]
    """Numbers, colours or points: ``start`` at part 0, ``stop`` at part 1."""
    return start + (stop - start) * part


def _points(*points: tuple[float, float] | float) -> np.ndarray:
    return np.array(points)


def _closed(*curves: np.ndarray) -> np.ndarray:
    return np.concatenate([*curves, curves[0][:1]])


CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 29)), np.sin(np.linspace(0, 2 * np.pi, 29))], axis=1)
GARLAND = np.stack([np.linspace(-1, 1, 11), 1 - np.abs(np.linspace(-1, 1, 11)) ** 2.3], axis=1)


def _oval(x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    return CIRCLE * (half_width, half_height) + _points(x, y)


def _curve(x: float, y: float, half_width: float, depth: float) -> np.ndarray:
    """Hangs from left to right; a negative depth arches."""
    return GARLAND * (half_width, depth) + _points(x, y)


README_NAME, README = "README.txt", "Faces drawn by agescale. No person is shown.\n"
"""Written first: so the folder is known."""
