"""The confusion matrix of an evaluation as a picture."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from pass2d.train.drawing.render import save_png
from pass2d.train.drawing.render_confusion import confusion_picture
from pass2d.train.evaluation.counts import EvalReport


def confusion(report: EvalReport) -> Image.Image:
    """Draw which class is taken for which, of the best pass."""
    title = f"{report.info.name} {report.split}, official protocol, {report.best.votes}"
    return confusion_picture(report.best.confusion, report.info.labels.names, title=title)


def write_confusion(report: EvalReport, path: Path) -> None:
    """Write the confusion matrix of the best pass as a PNG.

    Raises:
        DataError: It cannot be written there.
    """
    save_png(confusion(report), path)
