"""Raw ids to classes with motion, to classes without it, and to moving or static."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pass2d.cache.check_manifest import moving_faults
from pass2d.cache.motion import (
    Motion,
    class_motion,
    motion_lookup,
    moving_labels,
    static_ids,
    tells_motion,
    with_moving_classes,
)
from pass2d.cache.schema import DatasetInfo
from pass2d.pipeline.datasets.registry import DATASETS

INFO: DatasetInfo = DATASETS["semkitti"].table.info
FULL = with_moving_classes(INFO)
# semantic-kitti-all.yaml, learning_map: raw ids of the 26 classes.
CLASS_OF_26 = {
    **{0: 0, 1: 0, 10: 1, 11: 2, 13: 5, 15: 3, 16: 5, 18: 4, 20: 5, 30: 6, 31: 7, 32: 8, 40: 9},
    **{44: 10, 48: 11, 49: 12, 50: 13, 51: 14, 52: 0, 60: 9, 70: 15, 71: 16, 72: 17, 80: 18},
    **{81: 19, 99: 0, 252: 20, 253: 21, 254: 22, 255: 23, 256: 24, 257: 24, 258: 25, 259: 24},
}
# semantic-kitti-mos.yaml: raw 0 and 1 do not count, all else is static but 252..259.
MOTION_OF = {raw: 2 if raw >= 252 else 1 if raw > 1 else 0 for raw in CLASS_OF_26}


def test_class_and_motion_of_every_raw_id_give_its_class_with_motion() -> None:
    raw = np.array(list(CLASS_OF_26))
    label = INFO.labels.training_lookup()[raw]
    motion = motion_lookup(INFO.labels, INFO.facts)[raw]
    assert motion.tolist() == list(MOTION_OF.values())
    assert moving_labels(label, motion, INFO).tolist() == list(CLASS_OF_26.values())
    assert moving_labels(label, motion, FULL).tolist() == list(CLASS_OF_26.values())
    assert FULL.labels.training_lookup()[raw].tolist() == list(CLASS_OF_26.values())
    assert static_ids(FULL)[moving_labels(label, motion, FULL)].tolist() == label.tolist()


def test_the_label_table_with_motion_writes_trucks_below_other_vehicles() -> None:
    assert FULL.labels.training_to_raw[20:] == (252, 253, 254, 255, 259, 258)
    assert FULL.labels.names[24:] == ("moving-other-vehicle", "moving-truck")
    assert FULL.labels.n_classes == 26
    assert len(set(FULL.labels.colors_rgb)) == 26
    assert FULL.facts.movable == (1, 2, 3, 4, 5, 6, 7, 8, 20, 21, 22, 23, 24, 25)
    assert class_motion(FULL).tolist() == [0] + [1] * 19 + [2] * 6
    assert class_motion(INFO).tolist() == [0] + [1] * 19
    assert static_ids(INFO).tolist() == list(range(20))
    assert with_moving_classes(FULL) is FULL
    assert tells_motion(FULL)
    assert not tells_motion(INFO)


def test_a_data_set_whose_labels_say_nothing_of_motion_stays_as_it_is() -> None:
    info = DATASETS["nuscenes"].table.info
    assert with_moving_classes(info) is info
    assert not tells_motion(info)
    lookup = motion_lookup(info.labels, info.facts)
    assert lookup[[0, 1, 24, 40]].tolist() == [Motion.UNKNOWN, Motion.STATIC, Motion.STATIC, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"static": 20}, "static 20"),
        ({"raw": 10}, "raw 10"),
        ({"raw_ids": (252, 70_000)}, "raw 252"),
        ({"color_rgb": (0, 0, 300)}, "colour"),
        ({"raw_ids": (252, 1)}, "twice"),
    ],
)
def test_moving_classes_that_cannot_be_are_refused(change: dict[str, object], words: str) -> None:
    car, *others = INFO.facts.moving
    facts = replace(INFO.facts, moving=(replace(car, **change), *others))  # type: ignore[arg-type]
    assert any(words in wrong for wrong in moving_faults(facts, n_classes=20))
