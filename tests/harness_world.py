"""The tiny inputs of the harness, and every command on them."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path

import laspy
import numpy as np
import plyfile
import pypcd4
import torch
from described_samples import write_description, write_yard
from harness import BUCKET, ENDED, FREE, HARMED, RAW, SEALED, Command, Input
from harness_buckets import URL
from nuscenes_files import NuscenesFolder
from pipeline_files import RAW_IDS, scan_points, write_sequence
from test_train_export import TINY, trained_like
from typer.testing import CliRunner

from pass2d.cache.fields import CONTAINERS
from pass2d.cli import app
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import network_tensors, save_checkpoint

SMALL = "--set epochs=1 --set network.settings.hidden=4 --set network.settings.image_branch=false"
"""What a recipe that lost its lines must not ask of the test."""
OWN_YAML = f"""
name: "own"
labels: {{{", ".join(f"{raw}: 'raw {raw}'" for raw in RAW_IDS)}}}
color_map: {{0: [0, 0, 0], 10: [245, 150, 100], 40: [255, 0, 255]}}
learning_map: {{0: 0, 1: 0, 10: 1, 252: 1, 40: 2, 48: 2, 70: 2}}
learning_map_inv: {{0: 0, 1: 10, 2: 40}}
learning_ignore: {{0: True, 1: False, 2: False}}
split: {{train: [0], valid: [8], test: [11]}}
"""
"""A description as semantic-kitti-api has them."""
BEST = "run/checkpoints/best.safetensors"
N = 300
"""Points of a scan."""


def make_world(world: Path) -> None:
    """Raw data sets, caches, a run, point files, a corruption set, a zip, a published file."""
    world.mkdir()
    with contextlib.chdir(world):
        for sequence, frames in (("00", (0, 1)), ("08", (0, 1)), ("11", (0,))):
            write_sequence(Path("kitti"), sequence, frames, n=N, labels=sequence != "11")
        NuscenesFolder(root=Path("nuscenes"), samples=1, n=N).write()
        Path("innocent").mkdir()
        Path("innocent/precious.txt").write_text("of somebody else")
        _pass2d("prepare semkitti --root kitti --cache cache --workers 0")
        _pass2d("prepare nuscenes --root nuscenes --cache ncache --workers 0")
        _pass2d("prepare semkitti --root kitti --cache rcache --workers 0 --corrupt fog:heavy")
        for more in ("--sequences 00,08", ""):  # two generations, then a damaged shard
            _pass2d(f"prepare semkitti --root kitti --cache dcache --workers 0 {more}")
        damaged = min(p for p in Path("dcache").rglob("xyz/c/**/*") if p.is_file())
        damaged.write_bytes(damaged.read_bytes()[:-9])
        Path("recipe.toml").write_text(
            'extends = "2dpass-small"\nepochs = 1\nbatch_size = 2\nseed = 3\ndevice = "cpu"\n'
            "torch_threads = 1\n[network.settings]\nhidden = 4\nblock_scales = [2, 4]\n"
            'image_branch = false\n[augment]\ncrop_hw = [32, 96]\nmode = "none"\n'
            "[log]\nsave_steps = 1\ntensorboard = false\n"
        )
        _pass2d("train --cache cache --recipe recipe.toml --run run")
        _write_points(Path("points"))
        shutil.copytree("kitti/sequences/08/velodyne", "corrupted/fog/light/velodyne")
        shutil.copytree("kitti/sequences/08/labels", "corrupted/fog/light/labels")
        _pass2d(f"submit --cache cache --checkpoint {BEST} --out s.zip --allow-partial")
        _pass2d(f"predict kitti/sequences/08/velodyne --checkpoint {BEST} --out labels")
        _write_published(Path("published.ckpt"))
        save_checkpoint(Path("vavit.safetensors"), *_vavit())
        _pass2d("export vavit.safetensors --onnx vavit.onnx")
        Path("yard").mkdir()
        write_yard(Path("yard"))
        write_description(Path("yard"))
        Path("kitti/own.yaml").write_text(OWN_YAML)


def _vavit() -> tuple[dict[str, torch.Tensor], Card]:
    network, card = trained_like(TINY)
    return network_tensors(network.state_dict()), card


def _pass2d(line: str, *more: str) -> None:
    result = CliRunner().invoke(app, [*line.split(), *more])
    assert result.exit_code == 0, (line, result.output, result.exception)


def _write_points(folder: Path) -> None:
    """The same scan in every format."""
    folder.mkdir()
    points = scan_points(N, seed=4)
    points.tofile(folder / "a.bin")
    np.save(folder / "b.npy", points)
    names = ("x", "y", "z", "intensity")
    for kind in ("ascii", "binary", "binary_compressed"):
        cloud = pypcd4.PointCloud.from_points(points, names, (np.float32,) * 4)
        cloud.save(folder / f"c_{kind}.pcd", encoding=pypcd4.Encoding(kind))
    rows = np.rec.fromarrays(points.T, names=",".join(names))
    for name, is_text in (("d.ply", False), ("e.ply", True)):
        element = plyfile.PlyElement.describe(rows, "vertex")
        plyfile.PlyData([element], text=is_text).write(str(folder / name))
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.scales = np.full(3, 1e-3)
    content = laspy.LasData(header)
    content.x, content.y, content.z = points[:, :3].T.astype(float)
    content.intensity = (points[:, 3] * 255).astype(np.uint16)
    content.write(str(folder / "f.las"))
    content.write(str(folder / "g.laz"))


def _write_published(path: Path) -> None:
    from test_train_import_published import published_state, save, small

    network = small("spvcnn", n_classes=20, width_factor=0.125)
    save(path, published_state(network))
    assert torch.load(path, weights_only=False)


CACHE = (
    Input(glob="cache/**/*.parquet", kind=SEALED),
    Input(glob="cache/**/*.json", kind=SEALED),
    Input(glob="cache/**/CURRENT", kind=SEALED),
    Input(glob="cache/**/*", kind=SEALED),
)
CHECKPOINT = Input(glob="run/checkpoints/best.safetensors", kind=SEALED)
KITTI = (
    Input(glob="kitti/sequences/*/velodyne/*", kind=RAW),
    Input(glob="kitti/sequences/*/labels/*", kind=RAW),
    Input(glob="kitti/sequences/*/image_2/*", kind=RAW),
    Input(glob="kitti/sequences/*/calib.txt", kind=RAW),
    Input(glob="kitti/sequences/*/[pt]*.txt", kind=RAW),
)
NUSCENES = (
    Input(glob="nuscenes/v1.0-mini/*.json", kind=RAW),
    Input(glob="nuscenes/samples/LIDAR_TOP/*", kind=RAW),
    Input(glob="nuscenes/samples/CAM*/*", kind=RAW),
    Input(glob="nuscenes/lidarseg/*/*", kind=RAW),
)
YARD = (
    Input(glob="yard/drives/*/clouds/*", kind=RAW),
    Input(glob="yard/drives/*/truth/*", kind=RAW),
    Input(glob="yard/drives/*/left/*", kind=RAW),
    Input(glob="yard/drives/*/*.*", kind=RAW),
    Input(glob="yard/yard.toml", kind=RAW),
)
OWN = (Input(glob="kitti/own.yaml", kind=RAW), *KITTI)
POINTS = (Input(glob="points/*", kind=RAW, may_be_left_out=True),)


def _command(
    line: str,
    inputs: tuple[Input, ...] = (),
    *,
    writes: str = "",
    adds: str = "",
    then: str = "",
    code: int = 0,
    compared: str | tuple[str, ...] = "",
    kind: str = HARMED,
    sources: str = "",
    restores: tuple[str, ...] = (),
) -> Command:
    words = line.split()
    tops = {i.glob.split("/")[0] for i in inputs} | {w.split("/")[0] for w in (*words, sources)}
    known = (
        *("kitti", "nuscenes", "cache", "ncache", "rcache", "dcache", "run", "points"),
        *("corrupted", "labels", "s.zip", "published.ckpt", "recipe.toml", "yard"),
        *("vavit.safetensors", "vavit.onnx"),
    )
    return Command(
        name=f"{kind} {line}",
        words=tuple(words),
        needs=tuple(top for top in known if top in tops),
        inputs=inputs,
        writes=tuple(writes.split()),
        adds=tuple(adds.split()),
        then=tuple(then.split()),
        code=code,
        compared=compared,
        restores=restores,
        kind=kind,
    )


def _ended(line: str, *, writes: str = "", sources: str = "") -> Command:
    return _command(line, writes=writes, sources=sources, kind=ENDED)


def _bucket(
    line: str, kind: str = SEALED, *, writes: tuple[str, ...] = (), sources: str = ""
) -> Command:
    inputs = tuple(replace(role, kind=kind) for role in CACHE)
    words = f"{line} --cache {URL} --local-cache disk --json"
    made = _command(words, inputs, sources=sources, kind=BUCKET)
    return replace(made, writes=("disk", "cache", *writes))


_NEW = "--cache out --workers 0 --json"
COMMANDS = (
    _command(f"prepare semkitti --root kitti {_NEW}", KITTI, writes="out"),
    _command(f"prepare nuscenes --root nuscenes {_NEW}", NUSCENES, writes="out"),
    _command("prepare semkitti --root kitti --check --json", KITTI),
    _command("prepare nuscenes --root nuscenes --check --json", NUSCENES),
    _command(
        "prepare semkitti --root kitti --cache cache --plan --json",
        (*KITTI, Input(glob="cache/**/*", kind=FREE)),
    ),
    _command(
        "prepare semkitti --root kitti --cache cache --workers 0 --json",
        (Input(glob="cache/*/*", kind=FREE), Input(glob="cache/**/*", kind=FREE)),
        writes="cache",
    ),
    _command("stats --cache cache --json --html page.html", CACHE, writes="page.html"),
    _command("inspect cache --json", CACHE),
    _command("inspect cache --scan 08/000001 --json", CACHE),
    _command(f"inspect {BEST} --json", (CHECKPOINT,)),
    _command(
        f"train --cache cache --recipe recipe.toml --run new {SMALL} --json",
        (*CACHE, Input(glob="recipe.toml", kind=RAW)),
        writes="new",
    ),
    _command(
        "train --cache cache --recipe recipe.toml --run run --resume --json",
        (Input(glob="run/**/*", kind=FREE), Input(glob="run/checkpoints/*", kind=SEALED)),
        writes="run",
        adds="innocent",  # who links checkpoints/ to another disk wants them there
    ),
    _command(f"eval --cache cache --checkpoint {BEST} --json", (*CACHE, CHECKPOINT)),
    _command(
        f"predict points --checkpoint {BEST} --out out --json",
        (*POINTS, *POINTS, *POINTS, CHECKPOINT),
        writes="out",
    ),
    _command("view --cache cache --png out --scans : --json", CACHE, writes="out"),
    _command("view kitti --html out.html --scans : --json", KITTI, writes="out.html"),
    _command("view nuscenes --png out --json", NUSCENES, writes="out"),
    _command("view points --html out.html --scans : --json", POINTS, writes="out.html"),
    _command(
        "view kitti --sequence 08 --predictions labels --png out --scans : --json",
        (Input(glob="labels/*", kind=RAW),),
        writes="out",
    ),
    _command(
        f"submit --cache cache --checkpoint {BEST} --out out.zip --allow-partial --json",
        (*CACHE, CHECKPOINT),
        writes="out.zip .out.zip.parts",
    ),
    _command("submit --verify s.zip --json", (Input(glob="s.zip", kind=FREE),), code=1),
    _command(
        f"robust --root corrupted --clean cache --checkpoint {BEST} --out out --json",
        (Input(glob="corrupted/**/*", kind=RAW), *CACHE[:2], CHECKPOINT),
        writes="out",
    ),
    _command(
        f"robust --cache rcache --checkpoint {BEST} --out out --json",
        (Input(glob="rcache/**/*", kind=SEALED),),
        writes="out",
    ),
    _command(
        "import published.ckpt --out new.safetensors --json",
        (Input(glob="published.ckpt", kind=SEALED),),
        writes="new.safetensors new.json",
    ),
    _command("cache verify --cache cache --json", CACHE),
    _command(
        "cache repair --cache cache --json",
        CACHE,
        sources="kitti",
        writes="cache",
        restores=tuple(f"file cache/semkitti/{container}/" for container in CONTAINERS),
        compared="file",
        then="cache verify --cache cache",
    ),
    _command("cache gc --cache cache --json", CACHE),
    _command("cache status --cache cache --json", CACHE),
    _command("cache status --cache cache --hash --json", KITTI + CACHE),
    _command(
        "cache plan --cache cache --root kitti --json",
        (*KITTI, Input(glob="cache/**/*", kind=FREE)),
    ),
    _command(
        "cache bench --cache cache --limit 2 --rounds 2 --json",
        CACHE,
        compared=(".ways", ".threads", ".advice.costs"),  # which profile is best, time decides
    ),
    _command("doctor --cache cache --full --json", CACHE),
    _command(f"prepare folder --describe yard/yard.toml --root yard {_NEW}", YARD, writes="out"),
    _command("prepare folder --describe yard/yard.toml --root yard --check --json", YARD),
    _command(f"prepare folder --describe kitti/own.yaml --root kitti {_NEW}", OWN, writes="out"),
    _command("stats --moving --cache cache --json", CACHE),
    _command(
        "export vavit.safetensors --onnx new.onnx --json",
        (Input(glob="vavit.safetensors", kind=SEALED),),
        writes="new.onnx",
    ),
    _command(
        "predict points --checkpoint vavit.onnx --out out --json",
        (Input(glob="vavit.onnx", kind=SEALED), *POINTS),
        writes="out",
    ),
    _ended(f"prepare semkitti --root kitti {_NEW}", writes="out"),
    _ended(f"prepare nuscenes --root nuscenes {_NEW}", writes="out"),
    _ended("prepare synth --out out --preset tiny --scans 1 --workers 0 --json", writes="out"),
    _ended("stats --cache cache --json --html page.html", writes="page.html"),
    _ended(
        f"train --cache cache --recipe recipe.toml --run new {SMALL} --resume --json", writes="new"
    ),
    _ended(f"eval --cache cache --checkpoint {BEST} --json"),
    _ended(f"predict points --checkpoint {BEST} --out out --json", writes="out"),
    _ended("view --cache cache --png out --scans : --json", writes="out"),
    _ended("view kitti --html out.html --scans : --json", writes="out.html"),
    _ended(
        f"submit --cache cache --checkpoint {BEST} --out out.zip --allow-partial --json",
        writes="out.zip .out.zip.parts",
    ),
    _ended(
        f"robust --root corrupted --clean cache --checkpoint {BEST} --out out --json", writes="out"
    ),
    _ended("import published.ckpt --out new.safetensors --json", writes="new.safetensors new.json"),
    _ended(f"prepare folder --describe yard/yard.toml --root yard {_NEW}", writes="out"),
    _ended("export vavit.safetensors --onnx new.onnx --json", writes="new.onnx"),
    _ended("predict points --checkpoint vavit.onnx --out out --json", writes="out"),
    _ended("cache repair --cache dcache --json", writes="dcache", sources="kitti"),
    _ended("cache gc --cache dcache --json", writes="dcache"),
    _bucket("stats"),
    _bucket("inspect"),
    _bucket(f"eval --checkpoint {BEST}"),
    _bucket("prepare semkitti --root kitti --workers 0", FREE, writes=(URL,)),
    _bucket("cache verify"),
    _bucket("cache repair", writes=(URL,), sources="kitti"),
    _bucket("cache gc", FREE, writes=(URL,)),
    _bucket("cache status"),
)
