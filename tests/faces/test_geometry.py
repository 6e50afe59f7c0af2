from __future__ import annotations

import dataclasses
import json

import pytest

from agescale.faces.geometry import FaceGeometry, FoundFace, numbered


def face(x: float, y: float, side: float) -> FoundFace:
    return FoundFace((x, y, x + side, y + side), None, 0.9)


def test_a_geometry_survives_json() -> None:
    geometry = FaceGeometry(detection_size=320, margin=0.125, size=224)
    assert FaceGeometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry
    assert hash(geometry) == hash(FaceGeometry.from_dict(geometry.to_dict()))


def test_what_is_not_said_is_the_default() -> None:
    assert FaceGeometry.from_dict({"size": 96}) == FaceGeometry(size=96)


def test_a_geometry_of_a_newer_agescale_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^face geometry: eyebrows is not known to this agescale$"):
        FaceGeometry.from_dict({"eyebrows": 2})


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 8},
        {"detection_size": 0},
        {"retry_size": 16},
        {"landmark_size": -1},
        {"min_face_size": 0},
        {"padding": -0.1},
        {"margin": float("nan")},
        {"score_threshold": 1.0},
        {"nms_threshold": 0.0},
        {"template": ((0.3, 0.3), (0.7, 0.3))},
        {"template": ((0.3, 0.3),) * 4 + ((0.5, float("inf")),)},
        {"box": (0.9, 0.0, 0.1, 1.0)},
    ],
    ids=str,
)
def test_a_geometry_without_sense_is_refused_in_one_line(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^face geometry: .* must be [^\n]*$") as refused:
        dataclasses.replace(FaceGeometry(), **wrong)
    assert next(iter(wrong)) in str(refused.value)


def test_a_margin_shows_more_of_the_photo_around_the_same_face() -> None:
    near, wide = FaceGeometry(), FaceGeometry(margin=0.5)
    for (x, y), (framed_x, framed_y) in zip(near.template, wide.framed_template, strict=True):
        assert (framed_x - 0.5, framed_y - 0.5) == pytest.approx(((x - 0.5) / 2, (y - 0.5) / 2))
    assert near.framed_template == near.template
    assert near.framed_box == pytest.approx(near.box)


def test_faces_are_numbered_by_size_and_then_from_left_to_right() -> None:
    faces = [face(500, 0, 40), face(300, 50, 90), face(10, 0, 20), face(100, 0, 100), face(400, 9, 42)]
    assert [one.box[0] for one in numbered(faces)] == [100, 300, 400, 500, 10]
    assert numbered([]) == []


def test_the_order_bears_what_another_size_or_quality_does_to_boxes() -> None:
    faces = [face(20, 0, 100), face(150, 0, 97), face(300, 0, 103), face(420, 0, 50), face(500, 0, 49)]
    for scale, noise in ((0.5, 0.01), (3.0, -0.02), (1.0, 0.03)):
        seen = [
            face(scale * one.box[0], 0, scale * one.side * (1 + noise * (-1) ** index))
            for index, one in enumerate(faces)
        ]
        assert [seen.index(one) for one in numbered(seen)] == [0, 1, 2, 3, 4]
        assert [seen.index(one) for one in numbered(seen[::-1])] == [0, 1, 2, 3, 4]


def test_a_box_without_area_is_the_last() -> None:
    flat = FoundFace((0.0, 0.0, 0.0, 10.0), None, 0.9)
    assert numbered([flat, face(5, 5, 1)]) == [face(5, 5, 1), flat]
