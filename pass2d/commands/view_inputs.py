"""The inputs of `pass2d view` as one list of scans; uses both `pipeline` and `train`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pass2d.common.errors import ConfigError, Pass2DError

if TYPE_CHECKING:
    from pass2d.cache.reader import CacheReader
    from pass2d.cache.schema import DatasetInfo
    from pass2d.pipeline.datasets.registry import Datasets
    from pass2d.pipeline.source import ScanSource
    from pass2d.train.viewing.scan import Labeller, ViewScan, ViewSet


@contextmanager
def open_scans(
    location: str | None,
    raw: Path | None,
    *,
    dataset: str | None,
    split: str | None,
    sequences: Sequence[str] | None,
    layout: str | None,
    columns: int | None,
    dtype: str | None,
    datasets: Datasets | None = None,
    moving: bool = False,
    topic: str | None = None,
) -> Iterator[ViewSet]:
    """List the scans of a cache, a raw data set (of those in ``datasets``), a recording, or files.

    Raises:
        ConfigError: Neither or both were given, or an option that does not apply.
        Pass2DError: What was given is not readable.
    """
    if (location is None) == (raw is None):
        raise ConfigError("give either --cache or a raw file or folder, not both")
    if split not in (None, "train", "val", "test"):
        raise ConfigError(f"--split {split!r}: expected train, val or test")
    if topic is not None and raw is None:
        raise ConfigError("--topic applies only to recordings (.mcap, .bag, .db3)")
    if raw is not None:
        from pass2d.points.bags.bag import is_bag, open_bag
        from pass2d.train.viewing.bag_clouds import bag_clouds

        if dataset is not None:
            raise ConfigError("--dataset applies only with --cache")
        if moving:
            raise ConfigError("--moving applies only with --cache")
        if is_bag(raw):
            if split is not None or sequences is not None:
                raise ConfigError(f"{raw}: a recording has no splits or sequences")
            _only_for_point_files(raw, layout=None, columns=columns, dtype=dtype)
            with open_bag(raw) as bag:
                yield bag_clouds(bag, _table_info(layout, datasets), topic=topic)
            return
        if topic is not None:
            raise ConfigError(f"--topic applies only to recordings (.mcap, .bag, .db3): {raw}")
        yield _raw_scans(
            raw,
            split=split,
            sequences=sequences,
            layout=layout,
            columns=columns,
            dtype=dtype,
            datasets=datasets,
        )
        return
    from pass2d.cache.reader import CacheReader
    from pass2d.train.viewing.cached import cached_scans

    assert location is not None
    _only_for_point_files(location, layout=layout, columns=columns, dtype=dtype)
    with CacheReader.open(location, dataset=dataset) as reader:
        if moving:
            reader.tell_motion()
        if split is None and sequences is None:
            split = _default_split(reader)
        yield cached_scans(reader, split=split, sequences=sequences)


def labeller(
    scans: ViewSet,
    *,
    checkpoint: Path | None,
    predictions: Path | None,
    device: str,
    say: Callable[[str], None],
) -> Labeller | None:
    """Make the function that adds predictions to scans; None without any.

    Differences from a checkpoint's training data are reported.

    Raises:
        ConfigError: Both were given.
        CheckpointError: The checkpoint is not readable, or of another data set.
        DataError: The folder of predictions is not readable.
    """
    if checkpoint is not None and predictions is not None:
        raise ConfigError("--checkpoint and --predictions: give only one")
    if checkpoint is not None:
        from pass2d.train.viewing.segment import checkpoint_labels

        return checkpoint_labels(checkpoint, scans.table, device=device, say=say)
    if predictions is not None:
        from pass2d.train.viewing.predictions import PredictionFolder

        return PredictionFolder(predictions, scans.table).label
    return None


def newest_labeller(scans: ViewSet, *, device: str, say: Callable[[str], None]) -> Labeller | None:
    """A labeller with the best network of the newest run; None, with a message, without one."""
    from pass2d.train.checkpoints.runs import RUNS, as_typed, newest_network

    without = "no prediction is shown"
    network = newest_network()
    if network is None:
        say(f"{without}: no run below {RUNS}/ has a network yet, and no --checkpoint is given")
        return None
    try:
        label = labeller(scans, checkpoint=network.path, predictions=None, device=device, say=say)
    except (Pass2DError, ImportError) as error:  # it was not requested
        say(f"{without}: {error}")
        return None
    say(f"prediction: {as_typed(network.path)} ({network.reason}; --no-checkpoint shows none)")
    return label


def _raw_scans(
    raw: Path,
    *,
    split: str | None,
    sequences: Sequence[str] | None,
    layout: str | None,
    columns: int | None,
    dtype: str | None,
    datasets: Datasets | None,
) -> ViewSet:
    from pass2d.pipeline.datasets.raw_scans import list_raw
    from pass2d.pipeline.datasets.registry import DATASETS
    from pass2d.train.viewing.point_files import point_files
    from pass2d.train.viewing.scan import ViewItem, ViewSet

    datasets = DATASETS if datasets is None else datasets
    found = list_raw(raw, split=split, sequences=sequences, name=layout, datasets=datasets)
    if found is None:
        if split is not None or sequences is not None:
            raise ConfigError(
                f"{raw}: point files have no splits or sequences. Choose with --scan or --scans."
            )
        info = _table_info(layout, datasets)
        return point_files(raw, info, columns=columns, dtype=dtype)
    _only_for_point_files(raw, layout=None, columns=columns, dtype=dtype)
    items = tuple(
        ViewItem(
            name=scan.scan_id,
            sequence=scan.sequence,
            frame_index=scan.frame_index,
            token=scan.token,
            points=scan.points,
            load=partial(_load_raw, scan, found.info),
        )
        for scan in found.scans
    )
    return ViewSet(
        title=found.info.name,
        table=found.info.labels,
        signal_name=found.info.signal_name,
        n_cameras=found.info.n_cameras,
        forward_axis=found.info.facts.forward_axis,
        items=items,
        notes=found.notes,
    )


def _table_info(layout: str | None, datasets: Datasets | None) -> DatasetInfo:
    """Classes and units for points that do not state theirs."""
    from pass2d.pipeline.datasets.raw_scans import known_dataset
    from pass2d.pipeline.datasets.registry import DATASETS

    datasets = DATASETS if datasets is None else datasets
    dataset = datasets.default if layout is None else known_dataset(layout, datasets)
    return dataset.table.info


def _only_for_point_files(
    location: str | Path, *, layout: str | None, columns: int | None, dtype: str | None
) -> None:
    if layout is not None or columns is not None or dtype is not None:
        raise ConfigError(
            f"{location}: a data set, whose classes and columns are known. --layout, --columns and "
            "--dtype apply only to plain point files."
        )


def _load_raw(scan: ScanSource, info: DatasetInfo) -> ViewScan:
    from pass2d.pipeline.datasets.raw_scans import read_raw
    from pass2d.train.viewing.scan import view_scan
    from pass2d.train.viewing.times import scan_time_s

    time_s = scan_time_s(scan.points, scan.frame_index)
    return view_scan(read_raw(scan, info), frame_index=scan.frame_index, time_s=time_s)


def _default_split(reader: CacheReader) -> str | None:
    """Validation has labels and was not trained on: what one looks at first."""
    return "val" if (reader.scans.split == "val").any() else None
