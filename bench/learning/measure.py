"""One run: train, evaluate, and ask what the pictures would have told."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.learning.plan import Task
from pass2d.cache.reader import CacheReader
from pass2d.common.errors import ConfigError
from pass2d.common.progress import Progress, Silent
from pass2d.train.checkpoints.runs import RunFolder
from pass2d.train.data.batch import point_batch
from pass2d.train.data.collate import collate
from pass2d.train.data.load import load_scan
from pass2d.train.data.plan import StreamPlan
from pass2d.train.data.sampling import AugmentConfig
from pass2d.train.distributed.process_group import ProcessGroup
from pass2d.train.evaluation.counts import PassResult
from pass2d.train.evaluation.evaluate import evaluate
from pass2d.train.inference.metric import count_pairs, official_scores
from pass2d.train.loop import run
from pass2d.train.recipes.recipe import to_toml
from pass2d.train.run.assemble import Job, assemble
from pass2d.train.run.folder import newest_state, write_text
from pass2d.train.run.state import restore_state

RESULT = "result.json"


def measured(task: Task, cache_root: Path, root: Path, progress: Progress) -> dict[str, Any]:
    """The result of a run: read if it is there, else computed; a run cut short is gone on with.

    Raises:
        ConfigError: the folder's run has other settings or was of another world.
    """
    folder = root / task.folder
    done = folder / RESULT
    if done.is_file():
        found: dict[str, Any] = json.loads(done.read_text())
        if found["settings"] == to_toml(task.recipe):
            return found
        raise ConfigError(f"{folder}: measured with other settings. Delete it to run anew.")
    resume = (folder / "settings.toml").is_file()
    begin = time.process_time()
    trained = run(cache_root, task.recipe, run_root=folder, resume=resume, progress=progress)
    train_cpu_s = time.process_time() - begin
    if not trained.is_complete:
        raise KeyboardInterrupt
    report = evaluate(trained.best, cache_root, progress=progress)
    scores = report.passes[0]
    names = report.info.labels.names
    result = {
        "group": task.group,
        "name": task.name,
        "seed": task.seed,
        "steps": trained.steps,
        "train_cpu_s": None if resume else train_cpu_s,
        "scans": report.scans,
        "miou": {"official": scores.official.miou, "published": scores.published.miou},
        "accuracy": {"official": scores.official.accuracy, "published": scores.published.accuracy},
        "iou": {"official": by_name(names, scores.official.iou)}
        | {"published": by_name(names, scores.published.iou)},
        "tasks": task_values(scores),
        "seen": seen_by_camera(task, cache_root, RunFolder(root=folder)),
        "settings": to_toml(task.recipe),
    }
    write_text(done, json.dumps(result, indent=1))
    return result


def task_values(scores: PassResult) -> dict[str, float]:
    """Of a network that tells what moves: its tasks, and groups of classes; of others nothing."""
    if len(scores.tasks) == 1:
        return {}
    values: dict[str, float] = {}
    for result in scores.tasks:
        ranked = result.task.labels.names[result.task.ranked] if result.task.ranked else "mean"
        values[f"{result.task.title}: {ranked}"] = result.ranked
        values |= {f"{result.task.title}: {name}": v for name, v in result.groups().items()}
    return values


def by_name(names: Sequence[str], iou: NDArray[np.float64]) -> dict[str, float | None]:
    """IoU of every class but the ignored one; None for an absent one."""
    return {
        name: None if np.isnan(value) else float(value)
        for name, value in zip(names[1:], iou[1:], strict=True)
    }


def seen_by_camera(task: Task, cache_root: Path, folder: RunFolder) -> dict[str, Any] | None:
    """IoU on the validation points that a picture shows: of the 3D network, and of the 2D branch.

    The 2D branch (the head on all fused features, which training distils from) sees the picture; if
    colour tells something it must do better there.
    """
    with CacheReader.open(cache_root) as reader:
        job = assemble(reader, task.recipe, ProcessGroup(device=torch.device("cpu")), Silent())
        if not job.network.needs_images:
            return None
        state = newest_state(folder, Silent())
        assert state is not None
        restore_state(job, state)
        counts = _seen_counts(task, job, reader)
    names = reader.info.labels.names
    scores = [official_scores(count, absent_counts_zero=False) for count in counts]
    return {
        kind: {"miou": score.miou, "iou": by_name(names, score.iou)}
        for kind, score in zip(("network", "fused"), scores, strict=True)
    }


def _seen_counts(task: Task, job: Job, reader: CacheReader) -> list[NDArray[np.int64]]:
    """(C, C) of the 3D network and of the 2D branch, on whole pictures, nothing augmented."""
    positions = reader.select(split="val")
    plain = AugmentConfig(mode="none", crop_hw=None)
    hw = reader.scans.camera_hw[positions].reshape(-1, 2).min(0) // 16 * 16
    size_hw = (int(hw[0]), int(hw[1]))
    plan = StreamPlan(
        positions=positions,
        batch_size=1,
        seed=0,
        augment=plain,
        size_hw=size_hw,
        stack=task.recipe.stack,
    )
    network, device = job.network, job.group.device
    network.eval()
    network.training = True  # asks for the 2D branch; every layer stays in evaluation mode
    n = reader.info.labels.n_classes
    totals = [np.zeros((n, n), np.int64) for _ in range(2)]
    for position in positions:
        scan = load_scan(reader, plan, int(position), epoch=0)
        raw = collate([scan], with_images=True, size_hw=size_hw)
        batch = point_batch(raw, config=plain, grid=reader.info.grid, device=device)
        assert batch.images is not None
        assert batch.labels is not None
        with torch.inference_mode():
            answer = network(network.prepare(batch))
        seen = batch.images.point_index
        lidar = answer.row_logits[answer.row_of_point[seen]]
        for index, logits in enumerate((lidar, answer.image_logits)):
            count = count_pairs(batch.labels[seen], logits.argmax(1), n_classes=n)
            totals[index] += count[0].numpy()
    return totals
