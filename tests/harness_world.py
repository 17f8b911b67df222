"""The tiny inputs of the harness, and every command on them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import laspy
import numpy as np
import pandaset_files
import plyfile
import pypcd4
import torch
from bag_samples import ROS1, drive, write_mcap, write_ros1, write_ros2
from described_samples import write_description, write_yard
from harness import BUCKET, ENDED, FREE, HARMED, RAW, SEALED, Command, Input, Part
from harness_buckets import URL
from nuscenes_files import NuscenesFolder
from pipeline_files import RAW_IDS, scan_points, write_sequence
from test_train_export import TINY, trained_like
from typer.testing import CliRunner
from waymo_files import write_segment

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


def _kitti(root: Path) -> None:
    for sequence, frames in (("00", (0, 1)), ("08", (0, 1)), ("11", (0,))):
        write_sequence(root, sequence, frames, n=N, labels=sequence != "11")
    (root / "own.yaml").write_text(OWN_YAML)


def _nuscenes(root: Path) -> None:
    folder = NuscenesFolder(root=root, samples=1, n=N)
    folder.add_panoptic()
    folder.write()


def _innocent(root: Path) -> None:
    root.mkdir()
    (root / "precious.txt").write_text("of somebody else")


def _damaged_cache(root: Path) -> None:
    for more in ("--sequences 00,08", ""):  # two generations, then a damaged shard
        _pass2d(f"prepare semkitti --root kitti --cache {root} --workers 0 {more}")
    damaged = min(path for path in root.rglob("xyz/c/**/*") if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-9])


def _recipe(file: Path) -> None:
    file.write_text(
        'extends = "2dpass-small"\nepochs = 1\nbatch_size = 2\nseed = 3\ndevice = "cpu"\n'
        "torch_threads = 1\n[network.settings]\nhidden = 4\nblock_scales = [2, 4]\n"
        'image_branch = false\n[augment]\ncrop_hw = [32, 96]\nmode = "none"\n'
        "[log]\nsave_steps = 1\ntensorboard = false\n"
    )


def _corrupted(root: Path) -> None:
    for name in ("velodyne", "labels"):
        shutil.copytree(f"kitti/sequences/08/{name}", root / "fog" / "light" / name)


def _yard(root: Path) -> None:
    root.mkdir()
    write_yard(root)
    write_description(root)


def _pandaset(root: Path) -> None:
    pandaset_files.write_sequence(root / "001", frames=2, n=N)
    pandaset_files.write_sequence(root / "005", frames=2, n=N, suffix=".pkl", layout="2.2")
    pandaset_files.write_sequence(
        root / "006", frames=1, n=N, has_labels=False, has_cameras=False, layout="1.1"
    )


def _waymo(root: Path) -> None:
    write_segment(root / "training", "seg-a", frames=2, labelled=(1,))
    write_segment(root / "validation", "seg-b", frames=1, seed=1, labelled=(0,))
    write_segment(root / "testing", "seg-c", frames=1, seed=2, labelled=())


def _bags(root: Path) -> None:
    """The same drive in every form of recording."""
    root.mkdir()
    write_mcap(root / "drive.mcap", drive(n_scans=2))
    write_mcap(root / "plain.mcap", drive(n_scans=2), use_chunking=False, extras=False)
    write_ros1(root / "drive.bag", drive(ROS1, n_scans=2))
    write_ros1(root / "packed.bag", drive(ROS1, n_scans=2), packing="LZ4")
    write_ros2(root / "folder", drive(n_scans=2))
    shutil.copy(next((root / "folder").glob("*.db3")), root / "drive.db3")


def _prepared(name: str, more: str = "") -> Callable[[Path], None]:
    line = f"prepare {name} --root {'kitti' if name == 'semkitti' else name} --workers 0 {more}"
    return lambda root: _pass2d(f"{line} --cache {root}")


def _vavit() -> tuple[dict[str, torch.Tensor], Card]:
    network, card = trained_like(TINY)
    return network_tensors(network.state_dict()), card


def _pass2d(line: str, *more: str) -> None:
    result = CliRunner().invoke(app, [*line.split(), *more])
    assert result.exit_code == 0, (line, result.output, result.exception)


def _points(folder: Path) -> None:
    """The same scan in every format."""
    folder.mkdir()
    points = (scan_points(N, seed=4) * 64).round() / 64  # else pypcd4 does not compress them
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


def _published(path: Path) -> None:
    from test_train_import_published import published_state, save, small

    network = small("spvcnn", n_classes=20, width_factor=0.125)
    save(path, published_state(network))
    assert torch.load(path, weights_only=False)


PARTS = {
    "kitti": Part(_kitti),
    "nuscenes": Part(_nuscenes),
    "pandaset": Part(_pandaset),
    "waymo": Part(_waymo),
    "bags": Part(_bags),
    "yard": Part(_yard),
    "innocent": Part(_innocent),
    "cache": Part(_prepared("semkitti"), ("kitti",)),
    "ncache": Part(_prepared("nuscenes"), ("nuscenes",)),
    "rcache": Part(_prepared("semkitti", "--corrupt fog:heavy"), ("kitti",)),
    "dcache": Part(_damaged_cache, ("kitti",)),
    "recipe.toml": Part(_recipe),
    "run": Part(
        lambda root: _pass2d(f"train --cache cache --recipe recipe.toml --run {root}"),
        ("cache", "recipe.toml"),
    ),
    "points": Part(_points),
    "corrupted": Part(_corrupted, ("kitti",)),
    "s.zip": Part(
        lambda file: _pass2d(
            f"submit --cache cache --checkpoint {BEST} --out {file} --allow-partial"
        ),
        ("kitti", "cache", "run"),
    ),
    "labels": Part(
        lambda root: _pass2d(
            f"predict kitti/sequences/08/velodyne --checkpoint {BEST} --out {root}"
        ),
        ("kitti", "run"),
    ),
    "published.ckpt": Part(_published),
    "vavit.safetensors": Part(lambda file: save_checkpoint(file, *_vavit())),
    "vavit.onnx": Part(
        lambda file: _pass2d(f"export vavit.safetensors --onnx {file}"), ("vavit.safetensors",)
    ),
}
"""Raw data sets, caches, a run, point files, recordings, a corruption set, a zip, checkpoints."""

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
PANOPTIC = Input(glob="nuscenes/panoptic/**/*", kind=RAW, may_be_left_out=True)
PANDASET = (
    Input(glob="pandaset/*/lidar/*.pkl*", kind=RAW, may_be_left_out=True),
    Input(glob="pandaset/*/annotations/semseg/*.pkl*", kind=RAW),
    Input(glob="pandaset/*/lidar/*.json", kind=RAW),
    Input(glob="pandaset/*/camera/*/*.json", kind=RAW),
    Input(glob="pandaset/*/camera/*/*.jpg", kind=RAW),
)
WAYMO = (
    Input(glob="waymo/*/lidar/*", kind=RAW, may_be_left_out=True),
    Input(glob="waymo/*/lidar_*/*", kind=RAW),
    Input(glob="waymo/*/vehicle_pose/*", kind=RAW),
    Input(glob="waymo/*/camera_*/*", kind=RAW),
)


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
    is_long: bool = False,
) -> Command:
    words = line.split()
    tops = {i.glob.split("/")[0] for i in inputs}
    tops |= {word.split("/")[0] for word in (*words[1:], sources)}
    known = [name for name in PARTS if name != "innocent"]
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
        is_long=is_long,
    )


def _ended(line: str, *, writes: str = "", sources: str = "", is_long: bool = False) -> Command:
    return _command(line, writes=writes, sources=sources, kind=ENDED, is_long=is_long)


def _recording(name: str, pattern: str, *, is_long: bool = True) -> Command:
    """Label a recording; its copy has its suffix."""
    suffix = Path(name).suffix
    return _command(
        f"predict bags/{name} --topic /points --checkpoint {BEST} --out new{suffix} --json",
        (Input(glob=f"bags/{pattern}", kind=RAW),),
        writes=f"new{suffix}",
        is_long=is_long,
    )


def _long(line: str, inputs: tuple[Input, ...], writes: str = "", *, code: int = 0) -> Command:
    return _command(line, inputs, writes=writes, code=code, is_long=True)


def _bucket(
    line: str, kind: str = SEALED, *, writes: tuple[str, ...] = (), sources: str = ""
) -> Command:
    inputs = tuple(replace(role, kind=kind) for role in CACHE)
    words = f"{line} --cache {URL} --local-cache disk --json"
    made = _command(words, inputs, sources=sources, kind=BUCKET)
    return replace(made, writes=("disk", "cache", *writes))


_NEW = "--cache out --workers 0 --json"
COMMANDS = (
    _command(f"prepare semkitti --root kitti --neighbours {_NEW}", KITTI, writes="out"),
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
    _command(f"prepare pandaset --root pandaset {_NEW}", PANDASET, writes="out"),
    _command("prepare waymo --root waymo --check --json", WAYMO),
    _recording("drive.mcap", "drive.mcap", is_long=False),
    _long(f"prepare waymo --root waymo {_NEW}", WAYMO, writes="out"),
    _long("prepare pandaset --root pandaset --check --json", PANDASET),
    _long(f"prepare pandaset_gt --root pandaset {_NEW}", PANDASET, writes="out"),
    _long(f"prepare nuscenes --root nuscenes {_NEW}", (PANOPTIC, *NUSCENES), writes="out"),
    _long("prepare nuscenes --root nuscenes --check --json", (PANOPTIC, *NUSCENES)),
    _recording("plain.mcap", "plain.mcap"),
    _recording("drive.bag", "drive.bag"),
    _recording("packed.bag", "packed.bag"),
    _recording("drive.db3", "drive.db3"),
    _recording("folder", "folder/*"),
    _long(
        "view bags/drive.mcap --png out --json", (Input(glob="bags/drive.mcap", kind=RAW),), "out"
    ),
    *(
        _long(f"view bags/{name} --png out --json", (Input(glob=f"bags/{files}", kind=RAW),), "out")
        for name, files in (("drive.mcap",) * 2, ("drive.bag",) * 2, ("folder", "folder/*"))
    ),
    _long("view pandaset --png out --json", PANDASET, "out"),
    _long("view waymo --png out --json", WAYMO, "out"),
    _long(
        f"predict pandaset/001/lidar --checkpoint {BEST} --out out --recenter --json",
        (Input(glob="pandaset/001/lidar/*.pkl.gz", kind=RAW, may_be_left_out=True),),
        "out",
    ),
    _long(
        f"predict nuscenes/samples/LIDAR_TOP --checkpoint {BEST} --out out --json",
        (Input(glob="nuscenes/samples/LIDAR_TOP/*", kind=RAW, may_be_left_out=True),),
        "out",
    ),
    *(
        _long(f"describe {folder} --json", (Input(glob=f"{folder}/**/*", kind=FREE),), code=code)
        for code, folders in enumerate(("kitti nuscenes pandaset yard points", "waymo bags"))
        for folder in folders.split()
    ),
    _ended(f"prepare pandaset --root pandaset {_NEW}", writes="out", is_long=True),
    _ended(f"prepare waymo --root waymo {_NEW}", writes="out", is_long=True),
    _ended(
        f"predict bags/drive.mcap --checkpoint {BEST} --out new.mcap --topic /points --json",
        writes="new.mcap",
        is_long=True,
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
