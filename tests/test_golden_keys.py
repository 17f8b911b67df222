"""Every value of every recording is compared by a test, or named here with the reason why not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_golden
from golden_cases import FOLDERS
from golden_torchsparse_cases import FOLDER as TORCHSPARSE

SHARED = Path(__file__).resolve().parents[1] / "../shared"
BESIDE = {
    "torchsparse": TORCHSPARSE,
    "vavit": Path(os.environ.get("PASS2D_GOLDEN_VAVIT", SHARED / "golden_vavit")),
    "mixes": Path(os.environ.get("PASS2D_GOLDEN_MIXES", SHARED / "golden_mixes")),
}
"""Recordings with folders of their own, by the first part of their patterns."""

RUNS = "f32_1thread_vs_f64|f32_4threads_vs_f64"

READ: dict[str, dict[str, str]] = {
    "case_*/inputs.npz": {
        "points|batch_idx|labels|img_indices_.*|point2img_index_.*|image": "test_logits",
        "img_label": "test_labels_of_visible_points",
        "normalised_image_slice": "test_normalised_image_is_the_recorded_one",
    },
    "case_*/voxels.npz": {
        r"scale\d+_coors_(bzyx|inv)": "test_voxels_are_exact",
        r"scale\d+_voxel_label": "test_voxel_labels_are_exact",
        r"scale\d+_voxel_label_tied": "test_voxels_with_tied_labels",
    },
    "case_*/forward.npz": {
        "input_feature_10": "test_input_feature",
        r"(eval|bncal_eval|train)_logits(_every\d+)?": "test_logits",
        r"(eval|bncal)_layer\d_(pts_feat_rows|channel_mean|channel_std)": "test_layers",
        r"train_img_scale\d+_rows": "test_image_features",
    },
    "case_*/state_dict_keys.json": {
        "entries": "test_published_names_are_complete_both_ways",
    },
    "case_*/scalars.json": {
        "config/.*": "test_logits",
        "voxel_label_ties/.*": "test_voxels_with_tied_labels",
        "(eval|bncal_eval)_losses/.*": "test_evaluation_losses",
        "train_losses/.*_ties_ignored/.*": "test_losses_with_tied_voxels_ignored",
        "train_losses/.*": "test_training_losses",
        "grad_total_norm/.*": "test_gradients",
        "eval_losses_after_one_sgd_step/.*": "test_one_step_of_sgd",
        "array_summaries/.*": "test_array_summaries",
    },
    "case_*/gradients.json": {
        "parameters/.*/(l2|dot|l2_f32_.*)": "test_gradients",
        "parameters/.*/sgd_step_l2": "test_one_step_of_sgd",
        "batchnorm_after_train_forward/.*": "test_batchnorm_statistics",
    },
    "case_*/noise.json": {
        f"({RUNS}|f64.*|.*rerun)/feat10/(rms|absmax)": "test_input_feature",
        f"({RUNS})/feat10/max_abs": "test_input_feature",
        f"({RUNS})/(eval|bncal|train)_logits/max_over_rms": "test_logits",
        f"({RUNS})/(eval|bncal)_layers": "test_layers",
        f"({RUNS})/img_feats/.*": "test_image_features",
        f"({RUNS})/grad_dot_over_l2/(max|median)": "test_gradients",
        f"({RUNS})/sgd_delta/max": "test_one_step_of_sgd",
        f"({RUNS})/bn_after_l2_max": "test_batchnorm_statistics",
        "f64.*/(grad_l2|grad_dot_over_l2)/max": "test_gradients",
        "f64.*/sgd_delta/max": "test_one_step_of_sgd",
    },
    "small/lovasz.npz": {
        "[a-d]_(probs|labels|grad)": "test_lovasz_value_and_gradient",
    },
    "small/lovasz.json": {
        "[a-d]/(P|C|ignore|value)": "test_lovasz_value_and_gradient",
        "[a-d]/(value_float32|grad_float32_vs_float64_max_abs)": (
            "test_lovasz_in_float32_is_as_near_as_the_published_one"
        ),
    },
    "small/class_weights.json": {"counts|weights": "test_class_weights"},
    "small/lr_schedule.json": {
        "cosine_schedule_with_warmup.*/.*": "test_cosine_per_step_to_the_last_digit",
        "cosine_annealing_nuscenes/.*": "test_cosine_per_epoch_to_the_last_digit",
    },
    "small/iou.npz": {r".*_epoch\d_update\d_(pred|label)": "test_published_protocol"},
    "small/iou.json": {"(semantickitti|nuscenes)/(class_names|epochs)": "test_published_protocol"},
    "small/voxel_border.npz": {
        "points|.*_strictly_inside": "test_points_on_borders_can_be_voxelized",
        r".*_scale\d+_xyz_index": "test_cells_on_borders",
    },
    "small/dataset_semkitti.npz": {
        "full_(img_indices|point2img_index|img_points_row_col)": "test_semkitti_projection",
        "full_(point_feat|point_label|img_label)": "test_semkitti_frame_end_to_end",
        "mask|ref_index|ref_label": "test_semkitti_frame_end_to_end",
        "crop_(img_indices|point2img_index|img_label)": "test_semkitti_crop_as_a_batch",
        "crop_rgb_at_img_indices": "test_semkitti_frame_end_to_end",
    },
    "small/dataset_semkitti.json": {
        "full/(img|min_distance.*|points_.*)": "test_semkitti_projection",
        "full/(point_num|origin_len)": "test_semkitti_frame_end_to_end",
        "(full|crop|crop_flip)/img_stats/.*": "test_semkitti_pictures_as_the_network_sees_them",
        "proj_matrix": "test_semkitti_frame_end_to_end",
        "crop/(crop_width|crop_height|left|top|n_img_points)": "test_semkitti_crop_as_a_batch",
        "collated_batch_of_one_crop/(points|ref_xyz|labels|point2img_index|img)": (
            "test_semkitti_crop_as_a_batch"
        ),
        "collated_batch_of_one_crop/(batch_size|img_indices|img_label)": (
            "test_semkitti_crop_as_a_batch"
        ),
        "collated_batch_of_one_crop/origin_len": "test_semkitti_crop_as_a_batch",
    },
    "small/nus_mapping.npz": {".*": "test_nuscenes_points_in_their_cameras"},
    "small/nus_mapping.json": {
        "CAM_.*/(n_points|max_pixel.*|min_distance.*|calib/.*)": (
            "test_nuscenes_points_in_their_cameras"
        ),
    },
    "small/original_style_*.json": {"entries": "test_published_files_give_the_weights_of_the_rule"},
    "torchsparse/*_inputs.npz": {
        "points|point_batch|voxel_coords|inds|inverse_map": "test_sparse_quantisation_is_exact",
        "point_labels|voxel_labels": "test_sparse_levels_are_exact",
    },
    "torchsparse/*_result.npz": {
        r"coords_s\d+": "test_sparse_levels_are_exact",
        "voxel_logits|point_argmax": "test_sparse_eval_logits",
        "eval_(stem|stage.|up._.)_(C|F|sum|wsum)": "test_sparse_stage_features",
        "(eval|train)_grad_.*": "test_sparse_full_gradients",
        "train_logit_rows|train_logits_sample": "test_sparse_train_logits",
    },
    "torchsparse/kitti_*.json": {
        "(eval|train)/loss.*": "test_sparse_losses",
        "eval/(logits_rms|logits_absmax)": "test_sparse_eval_logits",
        "train/(logits_rms|stage_rms/.*)": "test_sparse_train_logits",
        "eval/stages/.*": "test_sparse_stage_features",
        "(eval|train)/grads/.*/(norm|dot|absmax)": "test_sparse_gradients",
        "(eval|train)/grads/.*/zero_in_exact_arithmetic": "test_sparse_gradients",
        "(eval|train)/grads/.*/(norm_fp64|dot_fp64)": "test_sparse_exact_gradients",
        "(eval|train)/grads/.*/rel_l2_err_vs_fp64": (
            "test_sparse_recorded_gradients_lie_as_far_from_exact_ones_as_recorded"
        ),
        "train/bn_after/.*": "test_sparse_running_statistics",
        "voxels_per_stride/.*": "test_sparse_levels_are_exact",
        "point_logits/.*": "test_sparse_eval_logits",
        "state_dict|weight_kind/.*|config/.*": "test_sparse_list_of_tensors_is_recognised",
        "noise/(eval|train)_logits_.*": "test_sparse_exact_logits",
        "noise/argmax_disagree_fp64": "test_sparse_exact_logits",
        "noise/(eval|train)_fp64/.*": "test_sparse_exact_losses",
        "noise/(eval|train)_grad_rel_l2_vs_fp64_(worst|median)": (
            "test_sparse_recorded_gradients_lie_as_far_from_exact_ones_as_recorded"
        ),
        "noise/bn_running_rel_worst": "test_sparse_exact_running_statistics",
        "noise/voxels_with_more_than_one_input_row": "test_sparse_voxels_with_more_than_one_row",
    },
    "torchsparse/layer_cases.npz": {
        "coords|feats|feats_grad|upstream_grad": "test_sparse_layer_chain_and_its_gradients",
        "(subm3|down2|subm3_s2|up2|k1)_(coords|out|kernel|kernel_grad)": (
            "test_sparse_layer_chain_and_its_gradients"
        ),
        r"pt_coords|v2p_s\d+_.*": "test_sparse_voxel_to_point",
        r"p2v_s\d+_.*": "test_sparse_point_to_voxel",
        "quant_.*": "test_sparse_quantisation_case",
        "offsets27|offsets8": "test_sparse_offset_numbers",
    },
    "vavit/structure.json": {
        "meta/(salt|configs/.*)": "test_float64_is_the_recording",
        "full_size/semantic_kitti/state_dict": "test_kinds_are_those_of_the_list",
        "full_size/.*/(parameters|entries|config/nb_class)": "test_published_sizes",
    },
    "vavit/b*_inputs.npz": {
        "points|point_batch|point_labels": "test_float64_is_the_recording",
        "feat|neighbors|idx_bev|xy_bev|idx_occ|upsample|rows": "test_inputs_are_the_recorded_ones",
    },
    "vavit/*_b*.npz": {
        "eval_logits|train_logits|train_drop_path_logits|drop_path_keep": (
            "test_float64_is_the_recording"
        ),
        "points|point_batch|point_labels|feat": "test_float64_is_the_recording",
    },
    "vavit/*_b*.json": {
        ".*/(loss_f64|bn_after/.*|grads/.*/(norm|dot|zero_in_exact_arithmetic))": (
            "test_float64_is_the_recording"
        ),
        ".*/grads/[^/]*": "test_float64_is_the_recording",
    },
    "vavit/pillarmix.npz": {r"cloud\d_points|keep\d": "test_pillar_mix"},
    "vavit/pillarmix.json": {"side_length|draws|picked_from_memory": "test_pillar_mix"},
    "mixes/clouds.npz": {"(points|labels)_[ab]": "test_laser_mix"},
    "mixes/draws.json": {
        r"laser\d+/(num_areas|thresholds_radian)": "test_laser_mix",
        r"polar\d+/(draws|swap|start)": "test_polar_mix",
        "waffle_cutmix/(num_to_add|points_out|draws_after_the_two_permutations)": (
            "test_instance_cutmix"
        ),
    },
    "mixes/mmdet3d_mixes.npz": {
        r"laser\d+_(band_[ab]|out|out_labels)": "test_laser_mix",
        r"polar\d+_(keep_a|sector_b|out|out_labels)": "test_polar_mix",
    },
    "mixes/waffleiron_mixes.npz": {
        "bank_(points|offsets|class)|cutmix_.*": "test_instance_cutmix",
    },
}
"""Files and, as patterns, their keys -> a test that compares them."""

IGNORED: dict[str, dict[str, str]] = {
    "case_*/scalars.json": {"case|description": "words"},
    "case_*/state_dict_keys.json": {"[^e].*": "words, and counts of the entries"},
    "case_*/noise.json": {
        ".*rerun/.*": "two equal runs were equal",
        ".*/(vox_equal|vlabels_equal|.*/argmax_agree)": "whole numbers, compared themselves",
        ".*/(losses|losses_max|eval_loss|bncal_loss|grad_total_norm).*": "scalars.json's f32_*",
        ".*/grad_l2/.*": "from gradients.json's l2_f32_*",
        ".*/(eval|bncal|train)_logits/(rms|absmax)": "the same as in array_summaries",
        ".*/(max_abs|max_over_rms|median|p95|argmax)": "limits are made of other statistics",
        "f64.*/(.*_layers|img_feats/.*|bn_after_l2_max)": "below the digits of the stored arrays",
    },
    "small/class_weights.json": {"note": "words"},
    "small/dataset_semkitti.json": {
        "full/(point_feat|point_label|ref_xyz|ref_label|ref_index|mask)": "shapes of stored arrays",
        "full/(img_indices|img_label|point2img_index)": "shapes of stored arrays",
        "crop/seed": "of the published code's random numbers, which gave left and top",
        ".*note": "words",
        "collated_batch_of_one_crop/(batch_idx|raw_labels|indices|path)": (
            "arrays that ours has no need of: offsets, raw indices and the reader stand for them"
        ),
    },
    "small/original_style_*.json": {"[^e].*": "words, and counts of the entries"},
    "torchsparse/kitti_*.json": {
        ".*fp64net_fp32loss.*": "rel_l2_err_vs_fp64 with the loss in float32",
        "noise/argmax_disagree_fp32": "point_argmax is compared itself",
    },
    "vavit/structure.json": {
        "meta/sources": "words",
        "full_size/.*/(bev_size|voxel_size|neighbors|config/.*)": (
            "the defaults of the network, without which its parameters would be others"
        ),
    },
    "vavit/b*_inputs.npz": {
        "splits_bev|idx_pad": "padded lengths: ours follow from the occupied pillars",
    },
    "vavit/*_b*.json": {
        "config|batch|salt|parameters": "the file's name and structure.json say it",
        ".*/(loss_f32|cross_entropy_f64|lovasz_f64)": "the loss is their sum, compared in float64",
        ".*/(logits_rms|.*_f32_vs_f64.*|grads/.*/norm_f32)": "how near float32 comes: the limits",
    },
    "vavit/*_b*.npz": {
        "neighbors|idx_.*|xy_bev|splits_bev|upsample|rows": "of b*_inputs.npz, see there",
    },
    "vavit/pillarmix.npz": {r"cloud\d_labels": "labels go where their points go"},
    "vavit/pillarmix.json": {"num_pcs|memory": "lengths of other entries"},
    "mixes/clouds.npz": {"raw_labels_[ab]": "the raw ids of labels_*"},
    "mixes/draws.json": {
        r"(laser|polar)\d+/(drawn|from_a|from_b|total|instances|angle[12])": (
            "counts of the stored arrays and settings of the recorded code"
        ),
        "waffle_cutmix/(points_in|bank/.*|scan)": "lengths of the stored arrays, names of scans",
        "waffle_polar.*": "a second published form of PolarMix, which pass2d has not",
    },
    "mixes/mmdet3d_mixes.npz": {
        r"laser\d+_keep_[ab]": "the bands, taken in turn",
        r"polar\d+_(copy1|copy2|copy_rows_b)": "rows of out, which is compared whole",
    },
    "mixes/waffleiron_mixes.npz": {
        "waffle_polar.*": "a second published form of PolarMix, which pass2d has not",
    },
}
"""Likewise -> why no test compares them."""


def keys_of(path: Path) -> Iterator[str]:
    """Names of an .npz; of a .json the path to each value that is no table, joined by /."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            yield from arrays.files
    else:
        yield from paths_below(json.loads(path.read_text()))


def paths_below(table: dict[str, Any]) -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from (f"{name}/{path}" for path in paths_below(value))
        else:
            yield name


def files_of(pattern: str) -> list[Path]:
    place, _, below = pattern.partition("/")
    if place in BESIDE:
        return sorted(BESIDE[place].glob(below))
    return [path for folder in FOLDERS for path in sorted(folder.glob(pattern))]


@pytest.mark.parametrize("pattern", sorted(READ))
def test_every_recorded_key_is_read_or_named(pattern: str) -> None:
    files = files_of(pattern)
    if not files:
        pytest.skip(f"no {pattern} in these recordings")
    known = [*READ[pattern], *IGNORED.get(pattern, {})]
    for path in files:
        unread = [key for key in keys_of(path) if not any(re.fullmatch(k, key) for k in known)]
        assert not unread, path


def test_every_recorded_file_is_listed() -> None:
    listed = {path for pattern in READ for path in files_of(pattern)}
    found = {
        path
        for folder in (*FOLDERS, *BESIDE.values())
        for ending in ("*.json", "*.npz")
        for path in folder.rglob(ending)
    }
    assert found <= listed


def test_the_tests_that_read_recorded_keys_exist() -> None:
    # By their text: the modules of recordings that are absent cannot be imported.
    texts = [path.read_text("utf-8") for path in Path(__file__).parent.glob("test_golden_*.py")]
    own = set(re.findall(r"^def (test_\w+)\(", "\n".join(texts), flags=re.MULTILINE))
    for tests in READ.values():
        for name in tests.values():
            assert name in own or callable(getattr(test_golden, name)), name
