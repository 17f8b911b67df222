"""What a network learns on the synthetic world: 2DPASS beside its baseline, every augmentation.

    python -m bench.learning [--work runs/learning] [--only GROUP] [--set KEY=VALUE]

Generates the world, prepares it, trains and evaluates every run of settings.toml one after the
other, and writes results.json and results.md into the work folder. Finished runs are skipped and a
run that was cut short is gone on with, so the same command may be given again at any time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.learning.measure import measured
from bench.learning.plan import HERE, Plan, load_plan, plain_world, tasks
from bench.learning.report import markdown, summary
from pass2d.commands.console import Console, clear_errors
from pass2d.common.progress import Progress
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import prepare
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.synth.config import preset
from pass2d.synth.generate import generate
from pass2d.train.run.folder import write_text


def main() -> None:
    options = parse()
    console = Console()
    with clear_errors(console):
        plan = load_plan(options.settings)
        cache_root = prepared_world(plan, options.work, console)
        chosen = [t for t in tasks(plan, overrides=options.set) if options.only in (t.group, None)]
        results = []
        for number, task in enumerate(chosen, 1):
            console.say(f"== run {number} of {len(chosen)}: {task.name}, seed {task.seed}")
            results.append(measured(task, cache_root, options.work, console))
            data = summary(plan, results)
            write_text(options.work / "results.json", json.dumps(data, indent=1))
            write_text(options.work / "results.md", markdown(plan, data) + "\n")
        console.close()
        print((options.work / "results.md").read_text())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/learning"))
    parser.add_argument("--settings", type=Path, default=HERE / "settings.toml")
    parser.add_argument("--only", choices=["comparison", "augmentations"])
    parser.add_argument("--set", action="append", default=[], help="changes every run's recipe")
    return parser.parse_args()


def prepared_world(plan: Plan, work: Path, progress: Progress) -> Path:
    """Generate and prepare what is not there yet."""
    raw, cache_root = work.resolve() / "raw", work.resolve() / "cache"
    generate(raw, preset(plan.world.preset, **plain_world(plan.world)), progress)
    listing = list_semkitti(raw)
    prepare(listing, cache_root / listing.info.name, PrepareConfig(workers=0), progress)
    return cache_root


if __name__ == "__main__":
    main()
