"""Rules of the whole tree that no type checker holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from house import modules

from pass2d.pipeline.datasets.registry import DATASETS
from pass2d.pipeline.stages.scan_formats import SCAN_FORMATS

PATCHED: dict[str, tuple[str, ...]] = {
    "a library's own function stands for a machine, store or failure that is not there": (
        "logical_cuda.py: owner",
        "logical_spconv.py: ops",
        "test_cache_local_space.py: get_file",
        "test_cache_remote.py: cat_file",
        "test_cache_remote.py: get_file",
        "test_cuda_guard.py: wait_event",
        "test_cuda_training.py: SPCONV_ALLOW_TF32",
        "test_train_loop.py: train",
        "test_train_viewing_recording.py: RecordingStream",
    ),
    "what is installed and which GPU there is differ between machines; users choose by name": (
        "harness.py: examine",
        "test_models_backends.py: find_spec",
        "test_models_backends.py: library",
        "test_models_backends.py: spconv_builds",
        "test_models_backends.py: spconv_library",
        "test_models_backends.py: triton_library",
        "test_models_segment.py: scatter_library",
        "test_models_twodpass.py: memory_order",
    ),
    "the code is broken on purpose, to see that the check notices": (
        "test_cache_raw.py: _fetch",
        "test_cache_raw.py: decode_into",
        "test_cuda_guard.py: _prepare",
        "test_cuda_guard.py: _release",
        "test_cuda_guard.py: _used_on",
        "test_cuda_guard.py: compute_loss",
        "test_cuda_guard.py: full_precision",
        "test_cuda_guard.py: gemm_neighbours",
        "test_cuda_guard.py: host_values",
        "test_cuda_guard.py: lay_out",
        "test_cuda_guard.py: prepared_batch",
        "test_train_lattice_votes.py: VOXELISER",
    ),
    "another version of the code, which is no setting": (
        "test_cache_verify.py: voxel_levels",
        "test_pipeline_corrupt.py: CODE_VERSION",
        "test_pipeline_poses.py: containers",
        "test_pipeline_prepare.py: CODE_VERSIONS",
        "test_train_stacks_run.py: containers",
    ),
    "what another process, a kill or a failing disk does at this very moment": (
        "test_cache_local_space.py: _is_sound",
        "test_cache_verify.py: _move_back",
        "test_cache_verify.py: make_shard",
        "test_pipeline_check.py: read_whole",
        "test_pipeline_remote.py: fetch_manifest",
        "test_pipeline_remote.py: write_new",
        "test_train_remote.py: fetch",
        "test_train_stream.py: read",
    ),
    "calls are counted of an object that a whole command makes": (
        "test_cache_remote.py: fetch",
        "test_cache_remote.py: read_range",
        "test_pipeline_remote.py: tried",
        "test_train_stacks_sources.py: fetch",
        "test_train_stacks_sources.py: read_range",
        "test_train_team_recipes.py: backward",
    ),
    "a smaller network or limit, a shorter wait, no slow step: the test takes less time": (
        "test_points_formats.py: LARGEST_UNPACKED",
        "test_train_export.py: LARGEST_PASS",
        "test_train_export.py: _model",
        "test_train_remote.py: _CLOSING_S",
        "thin_pictures.py: __init__",
    ),
    "the plain version of a rule that a whole run follows": (
        "test_train_loop.py: compute_loss",
        "test_train_remote.py: epoch_order",
    ),
    "a line more in a registry": (
        "test_pipeline_report.py: REPORTS",
        "test_pipeline_toy_datasets.py: table",
        "test_train_submission.py: SPLIT_OF",
    ),
}
"""What tests patch, by the reason for not passing it in."""

READ_DIRECTLY = {
    "pass2d's own file, of its package or of its making": (
        "cache.remote.staged",
        "corruptions.registry",
        "pipeline.datasets.described.template",
        "pipeline.datasets.words",
        "pipeline.run.ray_processes",
        "train.recipes.files",
        "train.viewing.page",
    ),
    "the kernel's": ("commands.doctor.gpu", "commands.doctor.machine", "pipeline.run.ray_guard"),
}
"""Modules that read files without `common.files`, which refuses pipes and devices, and why."""

PARSED_DIRECTLY = {
    "text that pass2d made itself, or checked by a hash": (
        "cache.care.status",
        "cache.failures",
        "cache.inspection.summary",
        "commands.doctor.process",
        "corruptions.registry",
        "pipeline.datasets.relist",
        "pipeline.repair.rebuild_shards",
        "pipeline.run.reasons",
        "pipeline.run.source_index",
        "synth.nuscenes_config",
        "synth.write",
        "train.checkpoints.checkpoint",
    ),
    "rules of its own": ("common.json", "train.checkpoints.header"),
}
"""Modules that parse JSON without `common.json.parse`, which ends on any nesting, and why."""

LAYOUTS = {dataset.layout.name for dataset in DATASETS.values()}


def test_no_code_compares_the_name_of_a_data_set_or_layout() -> None:
    names = LAYOUTS | set(DATASETS)
    found = [
        f"{path}:{line}"
        for path in modules().values()
        for line, texts in _comparisons(ast.parse(path.read_text(encoding="utf-8")))
        if names & texts
    ]
    assert found == [], "ask the facts of the data set, or a registry"


def test_comparisons_with_names_are_found() -> None:
    source = 'a == "x"\n"y" != b\nc in ("x", "z")\nmatch d:\n    case "y":\n        pass\nf("x")\n'
    found = [(line, sorted(texts)) for line, texts in _comparisons(ast.parse(source))]
    assert found == [(1, ["x"]), (2, ["y"]), (3, ["x", "z"]), (5, ["y"])]


def test_file_formats_are_those_of_layouts() -> None:
    assert set(SCAN_FORMATS) <= LAYOUTS


def test_files_of_users_are_read_where_a_pipe_is_refused() -> None:
    found = {
        name
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("read_text", "read_bytes")
    }
    assert found == {name for names in READ_DIRECTLY.values() for name in names}


def test_json_of_others_is_parsed_where_any_nesting_ends() -> None:
    found = {
        name
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.load", "json.loads")
    }
    assert found == {name for names in PARSED_DIRECTLY.values() for name in names}


def test_patched_names_are_those_listed() -> None:
    found = {
        f"{path.name}: {name}"
        for path in Path(__file__).parent.glob("*.py")
        for name in _patched(ast.parse(path.read_text(encoding="utf-8")))
    }
    listed = {name for names in PATCHED.values() for name in names}
    assert found == listed, "pass it in, or list it with the reason why that is worse"


def test_patches_are_found() -> None:
    source = """
import os
from pass2d.cache import reader as r
monkeypatch.setattr(os, "fsync", f)
monkeypatch.setattr(r, "LIMIT", 1)
monkeypatch.setattr("pass2d.cache.reader.LIMIT2", 1)
monkeypatch.setattr("plyfile.PlyData.read", f)
mock.patch.object(local, "method")
mock.patch("pass2d.cache.reader.f", f)
monkeypatch.setitem(r.TABLE, "key", 1)
"""
    assert list(_patched(ast.parse(source))) == ["LIMIT", "LIMIT2", "method", "f", "TABLE"]


def _patched(tree: ast.AST) -> Iterator[str]:
    """Names of the project that are patched; those of objects that are no imported module, too."""
    foreign = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
        if not (node.module if isinstance(node, ast.ImportFrom) else alias.name or "").startswith(
            "pass2d"
        )
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        kind, owner = node.func.attr, node.args[0]
        is_patch = kind in ("setattr", "setitem", "multiple")
        is_patch |= kind == "patch" or (kind == "object" and "patch" in ast.unparse(node.func))
        if not is_patch:
            continue
        if isinstance(owner, ast.Constant):
            if str(owner.value).startswith("pass2d."):
                yield str(owner.value).rpartition(".")[2]
        elif _root(owner) not in foreign:
            is_key = kind == "setitem" or not isinstance(node.args[1], ast.Constant)
            yield ast.unparse(owner).rpartition(".")[2] if is_key else str(node.args[1].value)


def _root(owner: ast.expr) -> str:
    """`a` of `a.b.c` and of `type(a.b)`."""
    while isinstance(owner, (ast.Attribute, ast.Subscript, ast.Call)):
        owner = owner.args[0] if isinstance(owner, ast.Call) else owner.value
    return owner.id if isinstance(owner, ast.Name) else ""


def _comparisons(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    """Line and texts of each comparison with literal texts."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Compare, ast.MatchValue)):
            texts = {
                part.value
                for part in ast.walk(node)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
            if texts:
                yield node.lineno, texts
