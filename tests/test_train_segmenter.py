"""What a program may hand to a Segmenter, and what it is told."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from stub_network import StubNetwork
from test_train_predict import card, segmenter, some_points

from pass2d.cache.clouds.statistics import scan_statistics
from pass2d.cache.schema import KNOWN_FACTS
from pass2d.common.errors import ShapeError
from pass2d.synth.config import preset
from pass2d.synth.frame import render_frame
from pass2d.train.inference.segmenter import Segmenter

TYPES = ["bfloat16", "float16", "float32", "float64", "int32", "int64", "int8", "uint8", "bool"]


@pytest.mark.parametrize("word", TYPES)
def test_tensors_of_any_real_type_are_read(word: str) -> None:
    dtype = getattr(torch, word)
    tensor = torch.from_numpy(np.abs(some_points(200)).round()).to(dtype)
    expected = segmenter()(tensor.to(torch.float64).numpy())
    assert np.array_equal(segmenter()(tensor).labels, expected.labels)
    wide = torch.zeros(200, 9, dtype=dtype)
    wide[:, ::2][:, :4] = tensor
    assert np.array_equal(segmenter()(wide[:, ::2]).labels, expected.labels)  # not contiguous
    if dtype.is_floating_point:
        needs_gradient = tensor.clone().requires_grad_()
        assert np.array_equal(segmenter()([needs_gradient])[0].labels, expected.labels)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.zeros((5, 2)), r"points\[1\] must be \(N, 4\).*got \(5, 2\)"),
        (np.zeros(4), r"points\[1\] must be \(N, 4\).*got \(4,\)"),
        (None, r"points\[1\] must be \(N, 4\) real numbers, got object"),
        ("a.bin", r"points\[1\] must be \(N, 4\) real numbers, got <U5"),
        ([[1, 2, 3, 4], [1, 2]], r"points\[1\] must be \(N, 4\) real numbers, got list"),
        (torch.zeros(3, 4, dtype=torch.complex64), r"points\[1\] must be .* got complex64"),
        (torch.zeros(3, 4, device="meta"), r"points\[1\] must be .* got Tensor"),
    ],
)
def test_the_bad_array_of_a_list_is_named_by_its_place(bad: object, said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        segmenter()([some_points(9), bad, some_points(7)])


def test_a_list_of_rows_is_one_scan() -> None:
    points = some_points(30)
    assert np.array_equal(segmenter()(points.tolist()).labels, segmenter()(points).labels)
    assert np.array_equal(segmenter()(list(points)).labels, segmenter()(points).labels)
    assert segmenter()([]) == []


def test_points_outside_the_volume_are_said_once() -> None:
    far = segmenter()
    with pytest.warns(UserWarning, match=r"points\[1\]: no point lies in the network's volume"):
        far([some_points(50), np.full((4, 4), 60.0)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        far(np.full((4, 4), 60.0))


def test_a_signal_of_another_scale_is_said_once() -> None:
    points = some_points(2000) * np.array([1, 1, 1, 255], np.float32)
    with pytest.warns(UserWarning, match=r"the signal looks like 0..255") as said:
        labels = segmenter()([points, points])
    assert len(said) == 1
    assert len(labels) == 2
    info = replace(card().info, own_facts=KNOWN_FACTS["nuscenes"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Segmenter(StubNetwork(), replace(card(), info=info))(points)
        segmenter()(some_points(2000))


@pytest.mark.parametrize(
    ("factor", "shift", "order", "said"),
    [
        ([1, 1, 1, -60], 0, "xyzs", "most signals are below 0"),
        ([1, 1, 1, 1 / 300], 0, "xyzs", "the signal looks like 0..0.0039"),
        ([1, 1, 1, 1], 0, "xzys", "y points up, z should"),
        ([1, 1, 1, 1], [5e5, 5e6, 0, 0], "xyzs", "the coordinates are not relative to the sensor"),
    ],
)
def test_other_signals_and_frames_are_said(
    factor: list[float], shift: object, order: str, said: str
) -> None:
    street = render_frame(preset("small", scans=2), "00", 0).scan.points
    statistics = scan_statistics([street.T])
    known = Segmenter(StubNetwork(), replace(card(), input_statistics=statistics))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known(street)
    places = ["xyzs".index(letter) for letter in order]
    with pytest.warns(UserWarning, match="points: ") as heard:
        known((street * factor + np.array(shift))[:, places])
    assert any(said in str(warning.message) for warning in heard)
