"""`pass2d robust --cache`: the data sets of `prepare --corrupt`, from making them to the table."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline_files import write_sequence
from stub_network import StubNetwork, by_place, random_checkpoint, trained_stub
from typer.testing import CliRunner, Result

from pass2d.cache.motion import with_moving_classes
from pass2d.cache.reader import CacheReader
from pass2d.cli import app
from pass2d.common.errors import ConfigError, DataError
from pass2d.common.progress import Silent
from pass2d.corruptions.registry import SEVERITIES, parse_variants
from pass2d.pipeline.corrupted import corrupted_listings
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare_all
from pass2d.reports.robustness import remarks, summary_csv
from pass2d.train.checkpoints.trained import TrainedNetwork
from pass2d.train.evaluation.evaluate import evaluate_network
from pass2d.train.robustness.cached import corrupted_datasets, robust_cache
from pass2d.train.robustness.robo3d import CORRUPTIONS, RobustScores


@pytest.fixture(scope="module")
def cache_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_sequence(root / "raw", "08", (0, 1, 2), n=300, images=False)
    listing = list_semkitti(root / "raw")
    variants = parse_variants("fog,crosstalk:heavy,incomplete_echo:light")
    listings = [listing, *corrupted_listings(listing, variants)]
    prepare_all(listings, root / "cache", PrepareConfig(workers=0), Silent())
    return root / "cache"


@pytest.fixture
def stubbed(tmp_path: Path, cache_root: Path) -> TrainedNetwork:
    with CacheReader.open(cache_root) as reader:
        return trained_stub(tmp_path / "stub.safetensors", info=reader.info)


def test_a_set_made_of_other_files_than_the_clean_one_is_refused(stubbed, tmp_path: Path) -> None:
    write_sequence(tmp_path / "raw", "08", (0, 1), n=300, images=False)
    listing = list_semkitti(tmp_path / "raw")
    fog = corrupted_listings(listing, parse_variants("fog:light"))
    prepare_all([listing, *fog], tmp_path / "cache", PrepareConfig(workers=0), Silent())
    points = listing.scans[1].points
    points.write_bytes(points.read_bytes()[::-1][:1600][::-1])
    assert listing.scans[1].labels is not None
    listing.scans[1].labels.write_bytes(listing.scans[1].labels.read_bytes()[-400:])
    prepare_all([listing], tmp_path / "cache", PrepareConfig(workers=0), Silent())
    with pytest.raises(DataError, match=r"fog-light: 1 of 2 scans, e\.g\. 08/000001, were made"):
        robust_cache(stubbed, tmp_path / "cache", tmp_path / "out")


def test_counts_are_those_of_evaluating_each_data_set(
    stubbed, cache_root: Path, tmp_path: Path
) -> None:
    network = stubbed.network
    report = robust_cache(stubbed, cache_root, tmp_path / "out")
    assert report.set_name == "pass2d-C"
    assert [(r.corruption, r.severity) for r in report.results] == [
        ("clean", ""),
        *(("fog", severity) for severity in SEVERITIES),
        ("crosstalk", "heavy"),
        ("incomplete_echo", "light"),
    ]
    for result in report.results:
        name = "semkitti" + (f"-{result.corruption}-{result.severity}" if result.severity else "")
        with CacheReader.open(cache_root, dataset=name) as reader:
            counts = evaluate_network(network, reader, reader.select(split="val"))
            expected = counts.scores(reader.info)[0]
        scores = report.scores_of(result)[0]
        assert (scores.miou, scores.points) == (expected.miou, expected.points)
        assert result.scans == 3
    # Noise is ignored: crosstalk took 1 % of 300 points from three scans, labelled or not.
    clean, crosstalk = (r.inside + r.outside for r in (report.results[0], report.results[4]))
    assert clean.sum() == crosstalk.sum() == 900
    assert crosstalk[0].sum() >= clean[0].sum()
    assert report.clean_miou == report.scores_of(report.results[0])[0].miou
    assert report.scores.corruptions == ("fog", "crosstalk", "incomplete_echo")
    assert report.scores.incomplete == ("crosstalk", "incomplete_echo")
    assert "made by pass2d from published physics" in remarks(report)[0]
    assert "of pass2d-C; Robo3D's MinkUNet-18 is 100 % on Robo3D's own set" in remarks(report)[1]
    everything = RobustScores(mce=1.0, mrr=1.0, corruptions=CORRUPTIONS, incomplete=())
    assert everything.is_complete
    assert not replace(report, scores=everything).is_complete
    assert replace(report, scores=everything, set_name="SemanticKITTI-C (Robo3D)").is_complete
    table = list(csv.DictReader(summary_csv(report).decode().splitlines()))
    assert {row["set"] for row in table} == {"pass2d-C"}
    assert [row["corruption"] for row in table][-2:] == ["mCE", "mRR"]


def test_a_network_that_tells_what_moves_is_scored_without_it(
    stubbed, cache_root: Path, tmp_path: Path
) -> None:
    plain = robust_cache(stubbed, cache_root, tmp_path / "a", corruptions=["fog"])
    info = with_moving_classes(stubbed.card.info)
    moving = torch.tensor([0, 20, 2, 3, 25])  # cars and trucks move
    network = StubNetwork(rule=lambda points: moving[by_place(points)], n_classes=26)
    told = trained_stub(tmp_path / "moving.safetensors", network, info=info)
    report = robust_cache(told, cache_root, tmp_path / "b", corruptions=["fog"])
    assert report.info.labels.names == stubbed.card.info.labels.names
    for ours, theirs in zip(report.results, plain.results, strict=True):
        assert np.array_equal(ours.inside, theirs.inside)
        assert np.array_equal(ours.outside, theirs.outside)


def test_finished_counts_are_kept_for_the_same_data(
    stubbed, cache_root: Path, tmp_path: Path
) -> None:
    first = robust_cache(stubbed, cache_root, tmp_path / "out", corruptions=["fog"], limit=2)
    assert [r.corruption for r in first.results] == ["clean", "fog", "fog", "fog"]
    assert all(r.scans == 2 for r in first.results)
    again = robust_cache(stubbed, cache_root, tmp_path / "out", corruptions=["fog"], limit=2)
    assert all(r.reused for r in again.results)
    other = robust_cache(stubbed, cache_root, tmp_path / "out", corruptions=["fog"], limit=1)
    assert not any(r.reused for r in other.results)


def test_which_data_sets_belong_to_a_clean_one(cache_root: Path, tmp_path: Path) -> None:
    found = corrupted_datasets(cache_root / "semkitti")
    assert [place.name for place, _ in found] == [
        "semkitti-fog-light", "semkitti-fog-moderate", "semkitti-fog-heavy",
        "semkitti-crosstalk-heavy", "semkitti-incomplete_echo-light",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="Choose the clean one: `dataset=semkitti`"):
        corrupted_datasets(cache_root / "semkitti-fog-light")


def test_one_line_says_what_is_wrong(cache_root: Path, tmp_path: Path) -> None:
    with CacheReader.open(cache_root) as reader:
        checkpoint = random_checkpoint(tmp_path / "small.safetensors", info=reader.info)

    def robust(*words: object) -> Result:
        arguments = ["robust", "--checkpoint", checkpoint, "--out", tmp_path / "o", *words]
        return CliRunner().invoke(app, [str(word) for word in arguments])

    lonely = tmp_path / "lonely"
    lonely.mkdir()
    (lonely / "semkitti").symlink_to(cache_root / "semkitti")
    for words, said in (
        (["--cache", cache_root, "--root", cache_root], "give only one"),
        (["--cache", cache_root, "--clean", cache_root], "--clean applies only with --root"),
        (["--root", cache_root, "--split", "val"], "--split applies only with --cache"),
        (["--cache", cache_root, "--corruptions", "fogg"], "did you mean 'fog'?"),
        (["--cache", cache_root, "--split", "train"], "splits with labels: val"),
        (["--cache", cache_root, "--dataset", "semkitti-fog-light"], "Choose the clean one"),
        (["--cache", lonely], "no corrupted data sets of semkitti"),
        (["--cache", tmp_path / "none"], "no such folder"),
    ):
        result = robust(*words)
        assert result.exit_code == 1, words
        assert said in result.stderr, result.stderr
        assert "Traceback" not in result.output
    result = robust("--cache", cache_root, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["set"], len(document["results"])) == ("pass2d-C", 6)
    assert (tmp_path / "o" / "summary.csv").is_file()
    assert "pass2d-C: semkitti" in robust("--cache", cache_root).stdout
