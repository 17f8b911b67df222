"""What `--outside nearest` gains over `ignore` on real scans, with a network that errs nowhere.

Points outside the training volume get the label of the nearest point inside; here those inside have
their true labels, so that the figures are the rule's own and not a network's:

    python -m bench.bench_outside [CACHE...] [--json FILE]

Without a cache the labelled scans of ``../shared`` are prepared, or those of a generated world
(which has no points outside). With a trained network: `pass2d eval --outside nearest` beside
`--outside ignore`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from bench.sample_root import sample_root
from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.train.inference.metric import both_scores
from pass2d.train.inference.passes import nearest_index


def measured(cache: Path) -> dict[str, object]:
    """Both rules over all labelled scans of a cache."""
    with CacheReader.open(cache) as reader:
        info = reader.info
        n_classes = info.labels.n_classes
        inside = np.zeros((n_classes, n_classes), np.int64)
        nearest, ignored = np.zeros_like(inside), np.zeros_like(inside)
        n_outside = n_right = n_points = 0
        positions = np.flatnonzero(reader.scans.has_label)
        for position in positions:
            record = reader.read(int(position), Fields(label=True, outside=True))
            assert record.label is not None
            assert record.outside_xyz is not None
            assert record.outside_label is not None
            np.add.at(inside, (record.label, record.label), 1)
            others = record.outside_label
            answered = record.label > 0  # a network has a class for every point
            source = nearest_index(record.xyz[:, answered], record.outside_xyz)
            copied = record.label[answered][source]
            np.add.at(nearest, (others, copied), 1)
            np.add.at(ignored, (others, np.zeros_like(others)), 1)
            n_points += int((record.label > 0).sum() + (others > 0).sum())
            n_outside += int((others > 0).sum())
            n_right += int(((copied == others) & (others > 0)).sum())
    result: dict[str, object] = {
        "cache": str(cache),
        "scans": len(positions),
        "labelled_points": n_points,
        "outside_share": n_outside / max(1, n_points),
        "outside_right": n_right / max(1, n_outside),
    }
    for name, counts in (("nearest", nearest), ("ignore", ignored)):
        official, _ = both_scores(inside, counts, info, sees_outside=False)
        present = (inside + counts)[1:].sum(axis=1) > 0
        result[name] = {
            "miou_of_present_classes": float(official.iou[1:][present].mean()),
            "accuracy_with_misses": official.accuracy_with_misses,
        }
    return result


def prepared(folder: Path) -> Path:
    listing = list_semkitti(sample_root(folder))
    prepare(listing, folder / "cache" / "semkitti", PrepareConfig(workers=0), Silent())
    return folder / "cache"


def main() -> None:
    """Print a line per cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("caches", nargs="*", type=Path, metavar="CACHE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = [measured(cache) for cache in options.caches or [prepared(Path(folder))]]
    for result in results:
        print(json.dumps(result, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
