"""What pass2d does on a GPU, in one command of less than nine minutes that needs no network.

    python -m bench.gpu [--device cuda] [--seconds 510] [--out runs/gpu] [--only PART ...] [--small]

Each part runs in a process of its own with a share of the time: one that hangs, fails or takes too
long is a row that says so, and the others run all the same. The table goes to stdout and, after
every part, into OUT/table.md; as it is, it belongs into bench/RESULTS.md. Needed beside torch:
spconv, zarr and what they need; for the tests pytest. Ray and TensorBoard are not. A rehearsal on a
machine without a GPU: `python -m bench.gpu --device cpu --small`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.gpu.parts import PARTS
from bench.gpu.run import Part, Runner, in_process, run_all, separate_process
from bench.gpu.setup import Setup
from pass2d.train.run.folder import write_text


def main(
    words: Sequence[str] | None = None,
    *,
    parts: Mapping[str, Part] = PARTS,
    runner: Runner = separate_process,
) -> str:
    options = parse(words)
    setup = Setup(device=options.device, folder=options.out.resolve(), is_small=options.small)
    if options.part:  # in the process of a part
        in_process(setup, options.part, parts[options.part], options.limit)
        return ""
    setup.folder.mkdir(parents=True, exist_ok=True)
    text = ""
    seconds = options.seconds or (1800 if setup.is_small else 510)
    for text in run_all(parts, setup, only=options.only, seconds=seconds, runner=runner):
        write_text(setup.folder / "table.md", text)
    print(text)
    return text


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu")
    seconds = "for all parts together; by default 510, and 1800 with --small"
    parser.add_argument("--seconds", type=float, help=seconds)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--only", nargs="*", choices=list(PARTS), help="these parts")
    parser.add_argument("--small", action="store_true", help="tiny networks and scans")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=60, help=argparse.SUPPRESS)
    return parser.parse_args(words)


if __name__ == "__main__":
    main(sys.argv[1:])
