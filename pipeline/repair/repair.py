"""Rebuilds what `verify` found damaged, and nothing else."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pass2d.cache.care.damage import Damage, IntegrityReport
from pass2d.cache.care.records_from_shards import current_rows, describe_shard
from pass2d.cache.care.verify import Presence, always_present, damaged_shards, verify
from pass2d.cache.failures import encode_failures, read_failures, recorded_failures
from pass2d.cache.fields import CONTAINERS
from pass2d.cache.layout import CURRENT_FILE, DATASET_FILE, FAILED_FILE, Layout, shard_name
from pass2d.cache.manifest import (
    Manifest,
    describe_dataset,
    generation_numbers,
    load_manifest,
    parse_dataset,
    publish_generation,
    publishing,
    set_current,
)
from pass2d.cache.rows import ShardRow, commit_row, decode_row
from pass2d.cache.schema import DatasetInfo
from pass2d.cache.tables import Tables, build_tables, merge_tables
from pass2d.common.errors import CacheError
from pass2d.common.files import (
    lock_file,
    read_failure,
    read_file,
    read_whole,
    remove_abandoned,
    replace_file,
    require_no_link,
    writing,
)
from pass2d.common.progress import Progress
from pass2d.pipeline.repair.rebuild_shards import (
    files_of_manifest,
    files_of_row,
    header_of,
    make_shard,
    with_paths,
)

_MOVED_AWAY = "damaged-"
"""How names in `.tmp` begin of what lay in the place of something sound."""


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """Summary of a repair."""

    repaired: tuple[str, ...]
    """One line per repaired item."""
    unrepaired: tuple[str, ...]
    """One line per item that could not be repaired, with the reason and the remedy."""
    before: IntegrityReport


def repair(
    dataset_root: Path, progress: Progress, *, presence: Presence = always_present
) -> RepairReport:
    """Verify, then repair: commit records, shards, generations, top files.

    Damaged shards are moved away and rebuilt from their source files under the same names, with the
    same bytes; readers keep the files that they have open.

    Args:
        dataset_root: e.g. cache/semkitti.
        progress: receives the number of finished shards.
        presence: fetches shards that are not completely on disk.

    Raises:
        CacheError: `prepare` is running, nothing is left to start from, or writing fails.
    """
    layout = Layout(root=dataset_root)
    require_no_link(*layout.folders)
    before = verify(dataset_root, progress, presence=presence)
    if before.is_sound:
        return RepairReport(repaired=(), unrepaired=(), before=before)
    with lock_file(layout.scratch / "prepare.lock", exclusive=True, wait=False) as is_alone:
        if not is_alone:
            raise CacheError(f"{dataset_root}: `prepare` is running. Wait for it, then repair.")
        # Of a killed run; what it moved away may hold scans that nothing else has.
        remove_abandoned(layout.scratch, spared=_MOVED_AWAY)
        repairer = _Repairer(layout, progress, before, presence)
        repairer.run()
    return RepairReport(
        repaired=tuple(repairer.repaired), unrepaired=tuple(repairer.unrepaired), before=before
    )


class _Repairer:
    def __init__(
        self, layout: Layout, progress: Progress, before: IntegrityReport, presence: Presence
    ) -> None:
        self._layout = layout
        self._presence = presence
        self._progress = progress
        self._damages = before.damages
        self._info = self._read_info()
        sound = self._sound_generations()
        self._base: Manifest | None = load_manifest(layout, sound[-1]) if sound else None
        self._files = {} if self._base is None else files_of_manifest(self._base)
        self.repaired: list[str] = []
        self.unrepaired: list[str] = []

    def run(self) -> None:
        """From the bottom up: later repairs rely on earlier ones."""
        for damage in self._damages:
            if damage.kind == "extra":
                self._remove_extra(damage)
        broken = list(damaged_shards(d for d in self._damages if d.kind != "extra"))
        self._progress.start("repairing", total=len(broken), unit="shards")
        for wanted in CONTAINERS:  # `lidar` first: the others are made from it
            for container, shard, key in broken:
                if container == wanted:
                    self._repair_shard(container, shard, key)
                    self._progress.advance()
        self._repair_generations()
        self._repair_top_files()

    def _hit(self, path: str) -> bool:
        return any(damage.path == path for damage in self._damages)

    def _remove_extra(self, damage: Damage) -> None:
        if damage.container or damage.path.startswith("manifest/gen-"):
            try:
                self._move_away(self._layout.root / damage.path)
            except CacheError as error:
                self.unrepaired.append(f"{damage.path}: {error}")
            else:
                self.repaired.append(f"{damage.path}: removed")
        else:
            self.unrepaired.append(
                f"{damage.path}: not a file of pass2d; if it is yours, move it away"
            )

    def _read_info(self) -> DatasetInfo:
        """The description, from a generation's copy or dataset.json."""
        for number in reversed(self._sound_generations()):
            return load_manifest(self._layout, number).info
        if self._hit(DATASET_FILE):
            raise CacheError(
                f"{self._layout.root}: neither dataset.json nor a generation is sound. Delete "
                "dataset.json, CURRENT and manifest/, then run `prepare` with the same "
                "`cache_root`: it keeps all shards and writes those files again."
            )
        path = self._layout.dataset_file
        try:
            return parse_dataset(read_file(path), where=str(path))
        except FileNotFoundError as error:
            raise read_failure(path, error) from error

    def _sound_generations(self) -> list[int]:
        bad = {
            damage.path.split("/")[1]
            for damage in self._damages
            if damage.path.startswith("manifest/gen-") and damage.kind != "extra"
        }
        numbers = generation_numbers(self._layout)
        return [n for n in numbers if self._layout.generation(n).name not in bad]

    def _repair_shard(self, container: str, shard: int, key: str) -> None:
        name = f"{container}/{shard_name(shard, key)}"
        hits = [
            d for d in self._damages if (d.container, d.shard, d.key) == (container, shard, key)
        ]
        folder, record = self._layout.root / f"{name}.zarr", self._record(name)
        record_path = self._layout.root / "rows" / f"{name}.json"
        try:
            if all(d.path.startswith("rows/") for d in hits) and folder.is_dir():
                with self._presence(container, folder.stem):
                    row = describe_shard(folder)
                self._clear(record_path)
                commit_row(self._layout, with_paths(row, self._files))
                self.repaired.append(f"rows/{name}.json: rebuilt from the shard")
            elif self._base is not None and header_of(self._base, container, shard, key) is None:
                self._move_away(folder)
                self._move_away(record_path)
                self.repaired.append(f"{name}: removed, the current generation does not use it")
            else:
                self._make_again(container, shard, key, record)
                self.repaired.append(f"{name}: rebuilt from its sources")
        except CacheError as error:
            self.unrepaired.append(f"{name}: {error}")

    def _record(self, name: str) -> ShardRow | None:
        path = self._layout.root / "rows" / f"{name}.json"
        try:
            return decode_row(read_whole(path), where=str(path))
        except (CacheError, OSError):
            return None  # the manifest knows the same

    def _make_again(self, container: str, shard: int, key: str, record: ShardRow | None) -> None:
        header = record.header if record is not None else None
        if header is None and self._base is not None:
            header = header_of(self._base, container, shard, key)
        if header is None:
            raise CacheError("neither a record nor the manifest lists it: run `prepare` again")
        files = self._files if record is None else {**self._files, **files_of_row(record)}
        places = [self._layout.shard(container, shard, key)]
        if record is None:  # else it stays: whoever interrupts this, it says what has to be there
            places.append(self._layout.row(container, shard, key))
        away = [self._move_away(place) for place in places]
        try:
            lidar_key = header.lidar_key or key  # of `lidar` itself: nothing is there now
            with self._presence("lidar", shard_name(shard, lidar_key)):
                result = make_shard(self._layout, header, shard, info=self._info, files=files)
            if result.key != header.key:
                raise CacheError("its sources or the code changed: run `prepare` again")
        except BaseException as error:  # Ctrl-C, too
            self._move_back(places, away)  # its other scans can still be read
            if isinstance(error, OSError) and not isinstance(error, CacheError):
                raise CacheError(f"cannot be rebuilt ({error})") from error
            raise

    def _repair_generations(self) -> None:
        sound = self._sound_generations()
        bad = [n for n in generation_numbers(self._layout) if n not in sound]
        with publishing(self._layout):
            if not sound or (bad and bad[-1] > sound[-1]):
                tables = self._tables_of_records()
                # Nothing of the damaged ones counts; their numbers are not given out again.
                self._move_away(self._layout.current_file)
                number = publish_generation(self._layout, self._info, tables)
                self.repaired.append(f"manifest/gen-{number:06d}: rebuilt from the commit records")
            elif self._hit(CURRENT_FILE):
                self._clear(self._layout.current_file)
                set_current(self._layout, sound[-1])
                self.repaired.append(f"CURRENT: names gen-{sound[-1]:06d}")
        for number in bad:
            self._move_away(self._layout.generation(number))
            self.repaired.append(f"manifest/gen-{number:06d}: removed, it was damaged")

    def _tables_of_records(self) -> Tables:
        try:
            rows = [r for r in current_rows(self._layout).values() if r["lidar"].entries.lidar]
        except CacheError as error:
            cause = self.unrepaired[0] if self.unrepaired else error
            raise CacheError(f"the manifest needs all commit records, but {cause}") from error
        return merge_tables([build_tables(rows, n_cameras=self._info.n_cameras)])

    def _repair_top_files(self) -> None:
        if self._hit(DATASET_FILE):
            data = describe_dataset(self._info)
            self._clear(self._layout.dataset_file)
            replace_file(self._layout.dataset_file, data, scratch=self._layout.scratch)
            self.repaired.append("dataset.json: restored from the generation's copy")
        if self._hit(FAILED_FILE):
            self._repair_failed_file()

    def _repair_failed_file(self) -> None:
        """Sound lines stay; what the manifest knows is added."""
        path = self._layout.failed_file
        failed = set()
        with contextlib.suppress(OSError):
            failed.update(read_failures(read_whole(path))[0])
        self._move_away(path)
        shards = load_manifest(self._layout).tables.shards
        failed.update(scan for _, scan in recorded_failures(shards))
        if failed:
            lines = encode_failures(sorted(failed, key=lambda f: (f.scan_id, f.container)))
            replace_file(path, lines, scratch=self._layout.scratch)
        self.repaired.append(
            f"failed.jsonl: {len(failed)} scans; the next `prepare` adds what only it knows"
        )

    def _move_away(self, path: Path) -> Path | None:
        """Out of sight in one step; `gc` and the next `prepare` delete it. Returns where it is."""
        if not (path.exists() or path.is_symlink()):
            return None
        require_no_link(*path.parents[: len(path.relative_to(self._layout.root).parts) - 1])
        aside = self._layout.scratch / f"{_MOVED_AWAY}{path.name}-{uuid.uuid4().hex}"
        with writing(path):
            path.rename(aside)
        return aside

    def _clear(self, path: Path) -> None:
        """Take a folder away from where a file belongs; files are replaced in one step."""
        if path.is_dir():
            self._move_away(path)

    def _move_back(self, places: Sequence[Path], away: Sequence[Path | None]) -> None:
        for place, aside in zip(places, away, strict=True):
            if aside is not None and not place.exists():
                with writing(place):
                    aside.rename(place)
