"""A cluster of three nodes that loses a worker and a node finishes with the same bytes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline_files import shards, write_own_names, write_sequence

from pass2d.cache.care.verify import verify
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def own_workers() -> list[int]:
    """Processes below this one that run our task now."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            names[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile

    def is_ours(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == os.getpid():
                return True
        return False

    return [p for p, name in names.items() if name.startswith("ray::run_task") and is_ours(p)]


class Saboteur(Silent):
    """Kills a worker after the first shard and removes a node after the second."""

    def __init__(self, cluster: object, node: object) -> None:
        self._cluster, self._node = cluster, node
        self.shards = 0
        self.killed = 0

    def advance(self, count: int = 1, *, nbytes: int = 0) -> None:
        self.shards += 1
        if self.shards == 1:
            for pid in own_workers()[:1]:
                os.kill(pid, signal.SIGKILL)
                self.killed += 1
        if self.shards == 2:
            self._cluster.remove_node(self._node)


@pytest.fixture
def three_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[object, object]]:
    """Started in a folder that holds names of ours, as a user's may."""
    from ray.cluster_utils import Cluster

    trap = tmp_path / "trap"
    trap.mkdir()
    write_own_names(trap)
    monkeypatch.chdir(trap)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    size = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    try:
        cluster.add_node(**size)
        yield cluster, cluster.add_node(**size)
    finally:
        cluster.shutdown()


def test_losing_a_worker_and_a_node_changes_no_byte(three_nodes, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for sequence in ("00", "01", "02", "08", "11"):
        write_sequence(raw, sequence, (0, 1, 2), n=40_000, labels=sequence != "11")
    listing = list_semkitti(Path("../raw"))  # relative: workers have another current folder
    prepare(listing, tmp_path / "inline", PrepareConfig(workers=0, shard_scans=2), Silent())
    cluster, node = three_nodes
    saboteur = Saboteur(cluster, node)
    config = PrepareConfig(ray_address=cluster.address, shard_scans=2)
    summary = prepare(listing, Path("../cluster"), config, saboteur)
    assert saboteur.killed == 1
    assert (summary.failed, summary.scans, saboteur.shards) == ((), 15, 10)
    assert shards(tmp_path / "cluster") == shards(tmp_path / "inline")
    assert verify(tmp_path / "cluster", Silent()).is_sound
