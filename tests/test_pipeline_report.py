"""The report of statistics: what it says, and that the page stands alone."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pass2d.cache.schema import DatasetInfo, GridConfig, LabelTable
from pass2d.cache.statistics import (
    RANGE_EDGES_M,
    DatasetStatistics,
    SplitStatistics,
    Spread,
    absent_classes,
    class_weights,
)
from pass2d.common.errors import DataError
from pass2d.common.html import Cell, column_chart, compact, page, table
from pass2d.reports.report import REPORTS, report_json, report_tables, write_html
from pass2d.reports.statistics import remarks

NAMES = ("unlabeled", "car", "road", "sign & post")
INFO = DatasetInfo(
    name="tiny",
    layout="semantickitti",
    labels=LabelTable(
        raw_to_training={0: 0, 10: 1, 40: 2, 81: 3},
        training_to_raw=(0, 10, 40, 81),
        names=NAMES,
        colors_rgb=((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)),
    ),
    grid=GridConfig(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60)),
    n_cameras=1,
    has_class_weights=True,
    signal_name="remission",
    raw_columns=4,
)


def split_statistics(name: str, counts: list[int], *, has_label: bool = True) -> SplitStatistics:
    histogram = np.zeros(len(RANGE_EDGES_M), np.int64)
    histogram[:3] = [10, 80, 10]
    spread = Spread(low=90, median=100, high=130, mean=105.5)
    return SplitStatistics(
        split=name,
        scans=4,
        scans_per_sequence=(("00", 3), ("01", 1)),
        points_raw=spread,
        points_kept=Spread(low=100, median=100, high=100, mean=100),
        total_raw=422,
        total_kept=400,
        visible_share=0.25 if has_label else None,
        scans_without_label=0 if has_label else 4,
        scans_without_image=1,
        sequences_without_label=() if has_label else ("00", "01"),
        sequences_without_image=("01",),
        class_counts=np.array(counts),
        class_shares=np.array(counts) / max(1, sum(counts)),
        class_weights=class_weights(counts),
        rare=(),
        absent=tuple(NAMES[c] for c in absent_classes(counts)) if has_label else (),
        range_histogram=histogram,
    )


STATISTICS = DatasetStatistics(
    info=INFO,
    splits=(
        split_statistics("train", [40, 320, 40, 0]),
        split_statistics("test", [0, 0, 0, 0], has_label=False),
    ),
)


def printed(width: int = 140) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(*report_tables(STATISTICS))
    return stream.getvalue()


def test_table_has_counts_shares_and_weights_of_each_class() -> None:
    text = printed()
    assert re.search(r"1 │ ■ car +│ +320 │ +80.00% │ +1.000", text)
    assert re.search(r"2 │ ■ road +│ +40 │ +10.00% │ +2.000", text)
    assert re.search(r"0 │ ■ unlabeled +│ +40 │ +10.00% │ +ignored", text)
    assert re.search(r"train │ +raw file │ +90 │ +100 │ +130 │ +106 │ +422", text)
    assert "train: scans per sequence: 00 3, 01 1" in text
    assert "test points" not in text  # a split without labels has no class columns


def test_absent_class_and_missing_pictures_are_said() -> None:
    text = " ".join(printed().split())
    assert "train: no point of sign & post; their class weight is the largest" in text
    assert "train: 1 of 4 scans have no picture (all of sequence 01)" in text
    assert "test: 4 of 4 scans have no labels (all of sequence 00, 01)" in text
    assert "test: no point of" not in text


def test_range_line_shows_the_largest_bin_and_the_median() -> None:
    assert re.search(r"▁█▁ +│ 5-10 m", printed())


def test_json_holds_the_same_numbers_and_no_nan() -> None:
    document = json.loads(json.dumps(report_json(STATISTICS), allow_nan=False))
    train = document["splits"]["train"]
    assert train["classes"][2] == {
        "id": 2,
        "name": "road",
        "points": 40,
        "share": 0.1,
        "weight": 2.0,
    }
    assert train["scans_per_sequence"] == {"00": 3, "01": 1}
    assert train["points_per_scan"]["raw"] == {"low": 90, "median": 100, "high": 130, "mean": 105.5}
    assert train["absent_classes"] == ["sign & post"]
    assert sum(train["range_histogram"]) == 100
    assert document["splits"]["test"]["visible_share"] is None


class Tags(HTMLParser):
    """Collects what a browser would fetch, and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.count = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count += 1
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count += 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_well_formed_and_fetches_nothing(tmp_path: Path) -> None:
    target = tmp_path / "stats.html"
    write_html(STATISTICS, target)
    html = target.read_text()
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert tags.fetched == []
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("<svg") == 4  # sequences and ranges of two splits
    assert "sign &amp; post" in html
    assert [path.name for path in tmp_path.iterdir()] == ["stats.html"]


def test_page_into_a_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone/stats\.html: the page could not be written"):
        write_html(STATISTICS, tmp_path / "gone" / "stats.html")


def test_chart_bars_are_as_tall_as_their_values() -> None:
    svg = column_chart(["a", "b", "c"], [10, 5, 0], unit="scans")
    heights = [float(h) for h in re.findall(r'class="bar"[^>]* height="([\d.]+)"', svg)]
    assert heights[0] == pytest.approx(2 * heights[1])
    assert heights[2] == 0
    assert "<title>b: 5 scans</title>" in svg


def test_chart_of_nothing_is_empty() -> None:
    assert "<rect" not in column_chart([], [], unit="scans")
    assert column_chart(["a"], [0], unit="scans").count("<rect") == 1


def test_text_from_outside_cannot_become_markup() -> None:
    cell = Cell(text="<script>", bar=0.5)
    html = page("<b>", "a & b", [table(["<i>"], [["<u>", cell]])])
    assert not re.search(r"<(script|b|i|u)>", html.replace("<i style", ""))


@pytest.mark.parametrize(
    ("value", "text"), [(1_234_567, "1.23 M"), (999, "999"), (2.5e9, "2.5 G"), (1500, "1.5 k")]
)
def test_large_numbers_are_shortened(value: float, text: str) -> None:
    assert compact(value) == text


@pytest.mark.parametrize("has_class_weights", [True, False])
def test_report_says_when_a_data_set_is_trained_without_class_weights(
    has_class_weights: bool,
) -> None:
    info = dataclasses.replace(INFO, has_class_weights=has_class_weights)
    said = remarks(DatasetStatistics(info=info, splits=()))
    assert said == (
        () if has_class_weights else ("tiny is trained without class weights, as published",)
    )


@dataclasses.dataclass(frozen=True)
class Weather:
    """A result that nobody has reported yet."""

    dry_share: float


def test_a_report_is_added_by_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weather_report.py").write_text(
        """
from pass2d.common.html import Cell
from pass2d.reports.report import Part, Report, percent


def report(weather):
    share = weather.dry_share
    rows = [[Cell(text="dry", color_rgb=(9, 9, 9), bar=share), percent(share)]]
    return Report(
        title="the <weather>",
        parts=[Part(heading="days", header=("kind", "share"), rows=rows)],
        remarks=["[bold]measured by hand"],
        data={"dry": share},
    )
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(REPORTS, "Weather", "weather_report")
    weather = Weather(dry_share=0.25)
    assert report_json(weather) == {"dry": 0.25}
    stream = io.StringIO()
    Console(file=stream, width=80).print(*report_tables(weather))
    assert re.search(r"■ dry │ 25.00%", stream.getvalue())
    assert "[bold]measured by hand" in stream.getvalue()
    write_html(weather, tmp_path / "weather.html")
    page_text = (tmp_path / "weather.html").read_text()
    assert "the &lt;weather&gt;" in page_text
    assert "width:25.0%" in page_text
