"""The inputs of keys: written and parsed at one place, in the bytes that keys always had."""

from __future__ import annotations

import json

import pytest

from pass2d.cache.key_inputs import (
    CameraScanInputs,
    HashedFile,
    KeyInputs,
    LidarScanInputs,
    MotionScanInputs,
    encode_inputs,
    parse_inputs,
)
from pass2d.common.errors import CacheError
from pass2d.common.json import dumps

POINTS = HashedFile(role="points", nbytes=16, xxh3="ab")
MATRIX = tuple(map(float, range(12)))
LIDAR = KeyInputs(
    sequence="08",
    lidar_scans=(
        LidarScanInputs(
            scan_id="08/000001",
            split="val",
            frame_index=1,
            token="",
            files=(POINTS, HashedFile(role="sweep0", nbytes=0, xxh3="")),
            sweeps=((MATRIX, 0.5),),
        ),
    ),
)
CAMERA = KeyInputs(
    lidar_key="0123",
    camera_scans=(
        CameraScanInputs(
            scan_id="a",
            files=(HashedFile(role="image0", nbytes=9, xxh3="cd"),),
            image_from_lidar=(MATRIX,),
            taken_hw=((376, 1241),),
        ),
        CameraScanInputs(scan_id="b", files=(), image_from_lidar=None),
    ),
)
MOTION = KeyInputs(
    lidar_key="0123",
    motion_scans=(
        MotionScanInputs(scan_id="a", pose=MATRIX, time_s=1.5),
        MotionScanInputs(scan_id="b", pose=None, time_s=None),
    ),
)
VOXEL = KeyInputs(lidar_key="0123")
NUMBERS = "[0.0,1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0,9.0,10.0,11.0]"
WRITTEN = {
    "lidar": (
        LIDAR,
        '{"scans":[["08/000001","val",1,"",[["points",16,"ab"],["sweep0",0,""]],'
        f'[[{NUMBERS},0.5]]]],"sequence":"08"}}\n',
    ),
    "camera": (
        CAMERA,
        f'{{"lidar":"0123","scans":[["a",[["image0",9,"cd"]],[{NUMBERS}],[[376,1241]]],'
        '["b",[],null,[]]]}\n',
    ),
    "motion": (
        MOTION,
        f'{{"lidar":"0123","scans":[["a",{NUMBERS},1.5],["b",null,null]]}}\n',
    ),
    "voxel": (VOXEL, '{"lidar":"0123"}\n'),
}


@pytest.mark.parametrize("container", WRITTEN)
def test_they_are_written_in_these_bytes_and_read_back(container: str) -> None:
    inputs, text = WRITTEN[container]
    assert dumps(encode_inputs(container, inputs)).decode() == text
    assert parse_inputs(container, json.loads(text), where="here") == inputs


def test_scans_of_earlier_versions_lack_the_last_part() -> None:
    short = {"sequence": "08", "scans": [["a", "val", 0, "", [["points", 16, "ab"]]]]}
    (scan,) = parse_inputs("lidar", short, where="here").lidar_scans
    assert (scan.files, scan.sweeps) == ((POINTS,), ())
    short = {"lidar": "0123", "scans": [["a", [], None]]}
    assert parse_inputs("camera", short, where="here").camera_scans[0].taken_hw == ()


@pytest.mark.parametrize(
    ("container", "value"),
    [
        ("lidar", {}),
        ("lidar", {"sequence": 8, "scans": []}),
        ("lidar", {"sequence": "08", "scans": [["a", "val"]]}),
        ("lidar", {"sequence": "08", "scans": [["a", "val", 0, "", [["points", 16]]]]}),
        ("lidar", {"sequence": "08", "scans": 3}),
        ("camera", {"lidar": "0123", "scans": [["a", [], [3], []]]}),
        ("camera", {"lidar": "0123", "scans": None}),
        ("motion", {"lidar": "0123", "scans": [["a", [1.0]]]}),
        ("voxel", {"lidar": None}),
        ("voxel", []),
    ],
)
def test_anything_else_is_one_error(container: str, value: object) -> None:
    with pytest.raises(CacheError, match=rf"^here: the inputs are not those of a {container}"):
        parse_inputs(container, value, where="here")
