"""Damaged small files of a cache: every command that reads them ends in one error, or is right."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from cache_samples import sample_info, write_sample_cache

from pass2d.cache.care.records_from_shards import describe_shard
from pass2d.cache.care.status import status
from pass2d.cache.care.verify import verify
from pass2d.cache.codec import Codec, decode_into
from pass2d.cache.fields import Fields
from pass2d.cache.inspection.scan import scan_detail
from pass2d.cache.inspection.summary import summarize_dataset
from pass2d.cache.keys import hash_bytes
from pass2d.cache.layout import Layout
from pass2d.cache.manifest import encode_tables, load_manifest, parse_dataset
from pass2d.cache.reader import CacheReader
from pass2d.cache.rows import ShardRow, decode_row, encode_row, load_row
from pass2d.cache.statistics import dataset_statistics
from pass2d.cache.tables import Tables
from pass2d.common.errors import CacheError, Pass2DError
from pass2d.common.json import dumps, from_json, seal
from pass2d.common.progress import Silent
from pass2d.pipeline.repair.repair import repair
from pass2d.reports.report import report_json

ALL = Fields(label=True, instance=True, image=True, pixels=True, voxels=True, outside=True)


@pytest.fixture(scope="module", params=[1, 3], ids=["one camera", "three cameras"])
def sample(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    info = sample_info(n_cameras=request.param)
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root, n_scans=2, sequences=("08",), n_points=40, image_hw=(8, 20), info=info)
    return root / "semkitti"


@pytest.fixture
def out(sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample, tmp_path / "semkitti"))


def small_files(out: Path) -> list[Path]:
    """All but the arrays, which `test_cache_reader` and `test_cache_verify` damage."""
    return sorted(p for p in out.rglob("*") if p.is_file() and p.parent.name not in ("0", ".tmp"))


def everything(out: Path) -> str:
    """All that readers get from a cache, as one hash."""
    with CacheReader.open(out) as reader:
        texts = [
            reader.fingerprint,
            json.dumps(report_json(dataset_statistics(reader.scans, reader.info))),
        ]
        for position in range(len(reader.scans)):
            record = reader.read(position, ALL)
            arrays = [record.xyz, record.signal, record.raw_index, record.label, record.instance]
            arrays += [a for v in record.cameras for a in (v.image, v.point_index, v.pixel_rc)]
            arrays += [a for v in record.voxels for a in (v.coord, v.label, v.inverse)]
            arrays += [record.outside_xyz, record.outside_signal, record.outside_label]
            texts += [
                hash_bytes(np.ascontiguousarray(a).tobytes()) for a in arrays if a is not None
            ]
            texts.append(repr(scan_detail(reader, position)))
        texts.append(repr(summarize_dataset(reader, location="x")))
    texts.append(repr(status(out)))
    return hash_bytes("\n".join(texts).encode())


def flipped(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def zeroed(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice([1, 16, 512, 4096]))
    return data[:start] + bytes(stop - start) + data[stop:]


def test_no_damage_of_a_small_file_goes_unseen_or_ends_in_a_traceback(
    out: Path, fault_rounds: int
) -> None:
    rng = random.Random(fault_rounds)
    sound = everything(out)
    told: list[str] = []
    files = small_files(out)
    read = [p for p in files if p.parent == out or "manifest" in p.parts]
    for path in read * (4 * fault_rounds) + rng.choices(files, k=8 * fault_rounds):
        was = path.read_bytes()
        damage = rng.choice([flipped, flipped, flipped, truncated, zeroed])
        path.write_bytes(damage(was, rng))
        try:
            assert everything(out) == sound, (path, damage)
        except Pass2DError as error:
            told.append(str(error))
        path.write_bytes(was)
    assert told
    assert not [text for text in told if "\n" in text]
    assert everything(out) == sound


def test_every_byte_of_the_manifest_counts(out: Path, fault_rounds: int) -> None:
    rng = random.Random(-fault_rounds)
    folder = out / "manifest" / "gen-000001"
    for path in sorted(folder.iterdir()) * (15 * fault_rounds):
        was = path.read_bytes()
        path.write_bytes(flipped(was, rng))
        with pytest.raises(CacheError, match=path.name):
            CacheReader.open(out)
        path.write_bytes(was)


def test_damaged_records_and_metadata_are_fixed_or_named(out: Path, fault_rounds: int) -> None:
    rng = random.Random(fault_rounds)
    for path in rng.sample(small_files(out), 20) * fault_rounds:
        was = path.read_bytes()
        path.write_bytes(rng.choice([flipped, truncated, zeroed])(was, rng))
        is_same = path.read_bytes() == was
        try:
            assert verify(out, Silent()).is_sound == is_same
        except CacheError as error:
            assert "format version" in str(error)  # noqa: PT017
        path.write_bytes(was)


def test_a_record_and_its_shard_damaged_at_once(out: Path) -> None:
    record = min((out / "rows" / "voxel").iterdir())
    group = out / "voxel" / f"{record.stem}.zarr" / "zarr.json"
    record.write_bytes(b"{}")
    for content in (b"[]", b"{}", b'{"attributes":[]}', b"[" * 100_000, b'{"attributes":{"a":1}}'):
        group.write_bytes(content)
        with pytest.raises(CacheError, match=r"zarr\.json"):
            describe_shard(group.parent)
    assert repair(out, Silent()).unrepaired  # its sources are nowhere


def rewritten(out: Path, change: Callable[[dict[str, list], dict[str, list]], None]) -> None:
    """Write the generation again with other values and right hashes, as an attacker would."""
    layout = Layout(root=out)
    manifest = load_manifest(layout)
    tables = [manifest.tables.scans, manifest.tables.shards]
    columns = [{n: t[n].to_pylist() for n in t.column_names} for t in tables]
    change(columns[0], columns[1])
    built = [
        pa.table({n: pa.array(c[n], t.schema.field(n).type) for n in c})
        for c, t in zip(columns, tables, strict=True)
    ]
    files = encode_tables(manifest.info, Tables(scans=built[0], shards=built[1]))
    for name, data in files.items():
        (layout.generation(1) / name).write_bytes(data)


def put(table: int, name: str, value: object, place: int = 0) -> Callable[..., None]:
    """Another value in one row of a column; table 0 is of scans, 1 of shards."""

    def change(*tables: dict[str, list]) -> None:
        tables[table][name][place] = value

    return change


def fewer(table: int) -> Callable[..., None]:
    """The last row is gone."""

    def change(*tables: dict[str, list]) -> None:
        for values in tables[table].values():
            values.pop()

    return change


CONTRADICTIONS = {
    "a scan less": fewer(0),
    "a shard less": fewer(1),
    "more points than raw ones": put(0, "n", 10**6),
    "points below 0": put(0, "n", -1),
    "no number of points": put(0, "n", None),
    "2^40 points": lambda scans, shards: (put(0, "n", 2**40)(scans), put(0, "n_raw", 2**41)(scans)),
    "another shard": put(0, "shard", 77),
    "a row twice": put(0, "row", 1),
    "a class less": put(0, "label_histogram", [1, 1, 1, 1]),
    "no histogram": put(0, "label_histogram", None),
    "a bin more": put(0, "range_histogram", [1] * 22),
    "a huge bin": put(0, "range_histogram", [2**62] * 21),
    "visible points of no picture": lambda scans, shards: put(
        0, "image_height", [0] * len(scans["m"][0])
    )(scans),
    "a wide picture": lambda scans, shards: put(0, "image_width", [60_000] * len(scans["m"][0]))(
        scans
    ),
    "a short matrix": put(0, "image_from_lidar", [1.0] * 11),
    "more voxels than points": put(0, "voxels", [10**6] * 5),
    "a file without its size": put(0, "source_bytes", []),
    "a chunk below 0": put(0, "xyz_offset", -8),
    "a chunk beyond all": put(0, "xyz_offset", 2**63 - 1),
    "a chunk of 2 GiB": put(0, "xyz_length", 2**31 + 5),
    "a chunk of nothing": put(0, "xyz_length", 3),
    "a length without a place": put(0, "xyz_offset", None),
    "labels that are not stored": lambda scans, shards: [
        put(0, f"label_{part}", None)(scans) for part in ("offset", "length", "crc")
    ],
    "strips that are not there": lambda scans, shards: [
        put(0, f"image_{part}", [])(scans) for part in ("offset", "length", "crc")
    ],
    "a path elsewhere": put(1, "path", "/etc"),
    "a path upwards": put(1, "path", "lidar/../../../etc"),
    "a stage of its own": put(1, "stage", "../lidar"),
    "a key of its own": put(1, "key", "../../../../../../../../../../etc"),
    "a file elsewhere": lambda scans, shards: shards["file_name"][0].__setitem__(0, "/etc/passwd"),
    "a file upwards": lambda scans, shards: shards["file_name"][0].__setitem__(0, "../../x"),
    "a file less": lambda scans, shards: shards["file_bytes"][0].pop(),
    "a huge file": lambda scans, shards: shards["file_bytes"][0].__setitem__(0, 2**62),
    "another sum": put(1, "bytes", 5),
    "a hash of its own": lambda scans, shards: shards["file_xxh3"][0].__setitem__(0, "0"),
    "other scans": put(1, "scans", 7),
    "no scans": put(1, "scans", None),
    "a shard below 0": put(1, "shard", -1),
    "no JSON": put(1, "parameters", "{"),
    "deep JSON": put(1, "failed", "[" * 100_000),
    "a list for an object": put(1, "encodings", "[]"),
    "a divisor of text": put(1, "encodings", '{"intensity_divisor":"5"}', 1),
    "failures of another form": put(1, "failed", '{"scans":[{}],"sources":[]}'),
    "a time below 0": put(1, "seconds", -1.0),
    "an endless time": put(1, "seconds", float("inf")),
    "a profile of its own": put(1, "profile", "fast"),
    "a scan twice": lambda scans, shards: put(0, "scan_id", scans["scan_id"][1])(scans),
    "a scan id upwards": put(0, "scan_id", "../../x"),
    "a scan id of three parts": put(0, "scan_id", "a/b/c"),
    "an absolute scan id": put(0, "scan_id", "/x"),
    "a sequence upwards": put(0, "sequence", ".."),
    "a sequence with a part": put(0, "sequence", "00/../.."),
    "a token with a line": put(0, "token", "a\nb"),
    "a token turned round": put(0, "token", "a\u202eb"),
    "a long id": put(0, "scan_id", "x" * 10**6),
    "an id with NUL": put(0, "scan_id", "a\0b"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_is_one_error(out: Path, name: str) -> None:
    rewritten(out, CONTRADICTIONS[name])
    with pytest.raises(CacheError, match=r"gen-000001|camera/.*image: ") as caught:
        CacheReader.open(out).read(0, ALL)
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)


ARRAYS = {
    "more points": ("xyz", "chunk", [1, 3, 100_000]),
    "fewer points": ("xyz", "chunk", [1, 3, 4]),
    "an axis less": ("xyz", "chunk", [1, 40]),
    "terabytes": ("xyz", "chunk", [1, 3, 10**12]),
    "below 0": ("xyz", "chunk", [1, 3, -4]),
    "a fraction": ("xyz", "chunk", [1, 3, 40.5]),
    "another type": ("xyz", "dtype", "float64"),
    "no type": ("xyz", "dtype", "../x"),
    "objects": ("xyz", "dtype", "O"),
    "no chunk": ("xyz", "chunk", None),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_do_not_hold_their_scans_are_one_error(out: Path, name: str) -> None:
    field, part, value = ARRAYS[name]

    def change(_: object, shards: dict[str, list]) -> None:
        place = shards["stage"].index("lidar")
        arrays = json.loads(shards["arrays"][place])
        arrays[field][part] = value
        shards["arrays"][place] = json.dumps(arrays)

    rewritten(out, change)
    with CacheReader.open(out) as reader, pytest.raises(CacheError, match=r"lidar/.*zarr"):
        reader.read(0, ALL)


@pytest.mark.parametrize("name", ["xyz", "label", "image", "pixel", "coord"])
def test_a_shard_without_the_array_of_its_scans_is_one_error(out: Path, name: str) -> None:
    def change(scans: dict[str, list], shards: dict[str, list]) -> None:
        kept = [json.loads(text) for text in shards["arrays"]]
        shards["arrays"] = [json.dumps({n: a for n, a in one.items() if n != name}) for one in kept]

    rewritten(out, change)
    with CacheReader.open(out) as reader, pytest.raises(CacheError, match=f"{name} .* no such arr"):
        reader.read(0, ALL)


@pytest.mark.parametrize(
    "text", ["08/000000", "[]", '{"xyz":[]}', '{"xyz":{"dtype":"x","chunk":3}}']
)
def test_arrays_of_no_form_are_one_error_of_inspect(out: Path, text: str) -> None:
    rewritten(out, lambda scans, shards: shards.update(arrays=[text] * len(shards["arrays"])))
    with CacheReader.open(out) as reader, pytest.raises(CacheError, match=r"\.zarr|column arrays"):
        summarize_dataset(reader, location="cache")


def test_a_chunk_of_another_size_is_refused_whatever_its_crc() -> None:
    frame = Codec(cname="lz4", clevel=5, shuffle="shuffle").encode(np.zeros(10, np.float32))
    packed = np.frombuffer(frame, np.uint8)[:-4]
    decode_into(packed, np.empty(10, np.float32))
    with pytest.raises(ValueError, match="another size than 44 bytes"):
        decode_into(packed, np.empty(11, np.float32))


@pytest.mark.parametrize(
    "change",
    [
        {"n_cameras": 10**30},
        {"n_cameras": True},
        {"n_cameras": 0},
        {"raw_columns": "4"},
        {"name": "../x"},
        {"sweeps": None},
        {"grid": {"low": [0, 0, 0], "high": [0, 0, 0], "shape": [1, 1, 1]}},
        {"grid": {"low": [0, 0, float("nan")], "high": [1, 1, 1], "shape": [1, 1, 1]}},
        {"grid": {"low": [0, 0, 0], "high": [1, 1, 1], "shape": [10**9, 1, 1]}},
        {"labels": {"raw_to_training": {"4000000000": 0}}},
        {"labels": {"raw_to_training": {"0": 99}}},
        {"labels": {"training_to_raw": [0, 10, 11, 40, 71][::-1]}},
        {"labels": {"names": ["a"] * 300}},
        {"labels": {"colors_rgb": [[0, 0, 999]] * 5}},
        {"corruption": {"clean": "../.."}},
        {"corruption": []},
    ],
)
def test_a_description_that_no_data_set_has_is_one_error(out: Path, change: dict) -> None:
    value = json.loads((out / "dataset.json").read_bytes())
    corruption = {"collection": "", "name": "", "severity": "", "clean": "", "noise_label": 0}
    for name, new in change.items():
        old = value["info"].get(name) or corruption
        value["info"][name] = {**old, **new} if isinstance(new, dict) else new
    with pytest.raises(CacheError, match=r"^dataset\.json[.:]"):
        parse_dataset(dumps(value), where="dataset.json")


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b'{"format_version":1,"xxh3":"\\ud800"}',
        b'{"format_version":' + b"9" * 4000 + b"}",
        b'{"format_version":true,"info":{}}',
        b"\xff\xfe",
        b"",
        b"null",
        b'{"xxh3":1}',
    ],
)
def test_json_of_any_form_is_one_error(data: bytes) -> None:
    for parse in (parse_dataset, decode_row):
        with pytest.raises(CacheError, match=r"^x: ") as caught:
            parse(data, where="x")
        assert len(str(caught.value)) < 400


def test_a_record_of_this_process_is_what_its_file_says_and_damage_is_noticed(sample: Path) -> None:
    layout = Layout(root=sample)
    for record in (sample / "rows").rglob("*.json"):
        data, shard = record.read_bytes(), int(record.stem[:6])
        on_disk = from_json(ShardRow, json.loads(data)["row"], where="x")
        written = load_row(layout, on_disk.header.container, shard, on_disk.header.key)
        assert written == on_disk
        assert encode_row(on_disk) == data
        with pytest.raises(CacheError, match=r"^x: "):
            decode_row(data.replace(b'"code_version":1', b'"code_version":2', 1), where="x")


def test_records_that_lead_elsewhere_are_refused(out: Path) -> None:
    record = min((out / "rows" / "lidar").iterdir())
    content = json.loads(record.read_bytes())
    del content["xxh3"]
    row = load_row(Layout(root=out), "lidar", int(record.stem[:6]), content["row"]["header"]["key"])
    assert row is not None
    assert decode_row(encode_row(row), where="x") == row
    for path, value in (
        (("header", "stage"), "../lidar"),
        (("header", "key"), "../../x"),
        (("header", "inputs"), []),
        (("shard",), -1),
        (("shard",), 10**30),
        (("files", 0, "name"), "../x"),
        (("files", 0, "name"), "/etc/passwd"),
        (("files", 0, "nbytes"), -1),
        (("files", 0, "xxh3"), ""),
        (("files", 1, "name"), content["row"]["files"][0]["name"]),
        (("fields", 0, "chunks"), []),
        (("fields", 0, "chunks", 0, 0, "length"), 2**40),
    ):
        changed = json.loads(json.dumps(content))
        place = changed["row"]
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value
        with pytest.raises(CacheError, match=r"^x: "):
            decode_row(seal(changed), where="x")


def test_a_generation_without_hashes_is_read_and_verify_says_so(out: Path) -> None:
    sound = everything(out)
    (out / "manifest" / "gen-000001" / "hashes.json").unlink()
    assert everything(out) == sound
    assert [d.path for d in verify(out, Silent()).damages] == ["manifest/gen-000001/hashes.json"]
