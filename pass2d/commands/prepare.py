"""`pass2d prepare ...`: raw data sets and synthetic worlds."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
import typer.main
from typer.core import TyperGroup

from pass2d.cache.urls import dataset_location
from pass2d.commands.console import (
    Console,
    clear_errors,
    print_json,
    print_line,
)
from pass2d.commands.console import (
    words as _listed,
)
from pass2d.commands.options import (
    DEFAULT_CACHE,
    CacheOption,
    JsonOption,
    LocalCacheOption,
    LocalCacheSizeOption,
)
from pass2d.commands.synth import synth_command
from pass2d.commands.wording import in_options
from pass2d.common.errors import ConfigError
from pass2d.common.text import counted, one_line
from pass2d.pipeline.datasets.words import CommandWords, table_files, words_by_name

if TYPE_CHECKING:
    from pass2d.corruptions.registry import Variant
    from pass2d.pipeline.datasets.registry import Dataset, Datasets
    from pass2d.pipeline.datasets.roots import FoundRoot
    from pass2d.pipeline.problem import Problem
    from pass2d.pipeline.run.options import PrepareConfig
    from pass2d.pipeline.source import SourceListing

SplitsOption = Annotated[str, typer.Option(help="Splits to prepare, comma-separated.")]
LimitOption = Annotated[int | None, typer.Option(help="Prepare at most this many scans.", min=1)]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        help="Number of Ray workers; 0 works without Ray. Defaults to one per CPU if that is "
        "faster, else to 0. With --ray-address: number of simultaneous tasks."
    ),
]
RayAddressOption = Annotated[
    str | None, typer.Option(help="Ray cluster to join, e.g. auto or host:6379.")
]
ProfileOption = Annotated[
    str,
    typer.Option(
        help="speed; size (smaller, slower to read); raw (uncompressed: least CPU, largest)."
    ),
]
CorruptOption = Annotated[
    str | None,
    typer.Option(
        help="Also prepare corrupted data sets (pass2d-C), e.g. fog:heavy,snow, or all (8 "
        "corruptions in 3 severities)."
    ),
]
DropInvalidOption = Annotated[
    bool,
    typer.Option(
        "--drop-invalid",
        help="Drop NaN and infinite points, which organised clouds contain, and single points "
        "beyond 1 km. By default, a file with such points is an error.",
    ),
]
NeighboursOption = Annotated[
    bool,
    typer.Option(
        "--neighbours",
        help="Also store what VaViT computes for each scan: thinned points and their 16 nearest "
        "neighbours (1.6 MB per scan of 120,000 points).",
    ),
]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Read all files and name every faulty one. Writes nothing.")
]
PngOption = Annotated[
    Path | None,
    typer.Option(
        "--png",
        help="With --check: folder for pictures of projected points, per sequence and camera.",
        resolve_path=True,
    ),
]
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Show what prepare would do and why. Writes nothing.")
]


Load = Callable[[], Any]
"""Gives the known `Datasets`, which are read only where they are needed."""


def _of_a_dataset(
    words: CommandWords,
    datasets: Load,
    *,
    describe: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Description of the folder: TOML (see docs/your_data.md), the YAML of "
            "semantic-kitti-api, or the name of a preset.",
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option(resolve_path=True)] = None,
    version: Annotated[
        str | None,
        typer.Option(
            help="v1.0-mini, v1.0-trainval or v1.0-test. Needed only if there are several."
        ),
    ] = None,
    cache_root: CacheOption = DEFAULT_CACHE,
    splits: SplitsOption = "train,val,test",
    sequences: Annotated[str | None, typer.Option()] = None,
    limit: LimitOption = None,
    image_size: Annotated[
        str | None, typer.Option(help="Size of the stored pictures as WIDTHxHEIGHT, or original.")
    ] = None,
    sweeps: Annotated[
        int, typer.Option(help="Past lidar sweeps to add to each scan.", min=0, max=10)
    ] = 0,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
    profile: ProfileOption = "speed",
    drop_invalid: DropInvalidOption = False,
    neighbours: NeighboursOption = False,
    corrupt: CorruptOption = None,
    check: CheckOption = False,
    png: PngOption = None,
    plan: PlanOption = False,
    as_json: JsonOption = False,
) -> None:
    """Prepare a data set. What its own command lacks of these options has its default."""
    from pass2d.pipeline.datasets.layout import Wanted
    from pass2d.pipeline.datasets.tally import Tally, tally_lines
    from pass2d.pipeline.run.options import PrepareConfig, image_size_hw

    console = Console()
    with clear_errors(console):
        variants = _variants(corrupt)
        _require_check(png, check=check)
        config = PrepareConfig(workers=workers, ray_address=ray_address, profile=profile)
        dataset, root = _chosen(words, datasets, describe=describe, root=root)
        size = image_size_hw(image_size) if image_size else dataset.table.stored_hw
        wanted = Wanted(
            splits=_listed(splits) or (),
            sequences=_listed(sequences),
            limit=limit,
            version=version,
            stored_hw=size,
            sweeps=sweeps,
        )
        place = root or _found(dataset.find, console)
        if check:
            tally = Tally() if words is FOLDER else None
            found = dataset.check(
                place, wanted, drop_invalid=drop_invalid, png=png, progress=console, tally=tally
            )
            console.close()
            if tally is not None and not as_json:
                for line in tally_lines(list(tally.splits.values()), dataset.table.info):
                    print_line(line)
            _show_problems(found, as_json=as_json)
            return
        listing = dataset.list_scans(place, wanted, progress=console)
        listing = _dropping(listing) if drop_invalid else listing
        listing = _with_neighbours(listing) if neighbours else listing
        _prepare(listing, cache_root, config, console, variants, plan=plan, as_json=as_json)


def _chosen(
    words: CommandWords, datasets: Load, *, describe: str | None, root: Path | None
) -> tuple[Dataset, Path | None]:
    """The data set of a command, and its root where that is known."""
    if words is not FOLDER:
        return datasets()[words.name], root
    from pass2d.pipeline.datasets.described.sources import load_description
    from pass2d.pipeline.datasets.registry import described

    if describe is None:
        raise ConfigError(
            "--describe FILE is missing: a description of the folder. `pass2d prepare "
            "--describe-template` writes one to fill in."
        )
    dataset = described(load_description(describe))
    file = Path(describe)
    if root is None and not file.is_file():
        raise ConfigError("--root DIR is missing: the folder that --describe describes.")
    return dataset, root or file.resolve().parent


_SHOWN = 3
"""Warnings of one kind that `--check` prints."""
OWN_OPTIONS = ("describe", "version", "image_size", "sweeps")
"""Those that a data set has only if the table ``command`` of its TOML names them."""


def _command(words: CommandWords, datasets: Load) -> Callable[..., None]:
    """The command of one data set: with its own help, without the options that it lacks."""
    variable = f"PASS2D_{words.name.upper()}"
    word = "scene" if "scenes" in words.options else "sequence"
    names = dict.fromkeys((f"--{word}s", "--sequences"))
    own = {
        "root": typer.Option(
            help=f"{words.root} "
            + (
                "Defaults to the folder of the description."
                if words is FOLDER
                else f"Defaults to {variable}, or to a usual location such as {words.usual_root}."
            ),
            resolve_path=True,
        ),
        "sequences": typer.Option(*names, help=f"Only these {word}s, e.g. {words.sequences}."),
    }
    signature = inspect.signature(_of_a_dataset, eval_str=True)
    parameters = []
    for name, parameter in list(signature.parameters.items())[2:]:
        if name in own:
            kind = get_args(parameter.annotation)[0]
            parameters.append(parameter.replace(annotation=Annotated[kind, own[name]]))
        elif name not in OWN_OPTIONS or name in words.options:
            parameters.append(parameter)

    def command(**options: Any) -> None:
        _of_a_dataset(words, datasets, **options)

    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


FOLDER = CommandWords(
    name="folder",
    title="Your own data",
    help="Prepare any folder, from a description of its contents.",
    root="Folder to which the description's patterns are relative.",
    usual_root="",
    sequences="00,08",
    options=("describe", "image_size", "sweeps"),
)


def _known() -> Datasets:
    from pass2d.pipeline.datasets.registry import DATASETS

    return DATASETS


def _template(
    context: typer.Context,
    describe_template: Annotated[
        bool,
        typer.Option(
            "--describe-template",
            help="Write description.toml, to be filled in for `pass2d prepare folder`.",
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    if not describe_template:
        typer.echo(context.get_help())
        raise typer.Exit(0)
    from pass2d.pipeline.datasets.described.template import write_template

    console = Console()
    with clear_errors(console):
        file = write_template(Path("description.toml"))
        typer.echo(f"{file}: fill it in, then: pass2d prepare folder --describe {file} --check")


def prepare_typer(
    files: Callable[[], Sequence[Path]] = table_files,
    datasets: Load = _known,
) -> typer.Typer:
    """`prepare` with a command per data set.

    Args:
        files: their TOML files, which are read when one of the commands is asked for.
        datasets: what they stand for, asked when a command runs.
    """

    class Group(TyperGroup):
        """A command per data set, beside those that are always there."""

        @functools.cached_property
        def words(self) -> dict[str, CommandWords]:
            return {**words_by_name(files()), FOLDER.name: FOLDER}

        def list_commands(self, ctx: Any) -> list[str]:
            return [*self.words, *super().list_commands(ctx)]

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name not in self.words:
                return super().get_command(ctx, cmd_name)
            words = self.words[cmd_name]
            one = typer.Typer(add_completion=False)
            one.command(cmd_name, help=words.help)(_command(words, datasets))
            return typer.main.get_command(one)

    app = typer.Typer(
        cls=Group,
        no_args_is_help=True,
        help="Prepare a raw data set as a cache.",
        invoke_without_command=True,
        callback=_template,
    )
    app.command("synth")(synth_command)
    return app


prepare_app = prepare_typer()


def _dropping(listing: SourceListing) -> SourceListing:
    """The listing whose points of NaN are dropped."""
    return replace(listing, info=replace(listing.info, drops_invalid=True))


def _with_neighbours(listing: SourceListing) -> SourceListing:
    """The listing whose thinned points and their neighbours are stored."""
    if listing.info.sweeps:
        raise ConfigError(
            f"--neighbours with --sweeps {listing.info.sweeps}: no network that uses neighbours "
            "takes added sweeps. Leave one of the two out."
        )
    return replace(listing, info=replace(listing.info, has_thinned=True))


def _found(find: Callable[[], FoundRoot], console: Console) -> Path:
    """The root where none is given; said before the work."""
    found = find()
    console.say(f"root: {found.root} ({found.reason})")
    return found.root


def _require_check(png: Path | None, *, check: bool) -> None:
    if png is not None and not check:
        raise ConfigError(f"--png {png}: only --check draws pictures. Add --check.")


def _show_problems(problems: list[Problem], *, as_json: bool) -> None:
    """Print what a check found; exit code 1 if a file must be fixed."""
    from pass2d.pipeline.run.describe import problems_json

    faults = [problem for problem in problems if problem.severity == "error"]
    if as_json:
        print_json(problems_json(problems))
    else:
        times: Counter[str] = Counter()
        for problem in problems:
            kind = problem.kind if problem.severity == "warning" else ""
            times[kind] += 1
            if not kind or times[kind] <= _SHOWN:
                print_line(f"{problem.severity}: {problem}")
        if more := sum(n - _SHOWN for kind, n in times.items() if kind and n > _SHOWN):
            print_line(f"warning: {more:,} more like these: --json lists them")
        warnings = sum(problem.severity == "warning" for problem in problems)
        notes = len(problems) - len(faults) - warnings
        found = [counted(len(faults), "error"), counted(notes, "note")]
        if warnings:
            found.insert(1, counted(warnings, "warning"))
        typer.echo(", ".join(found) if problems else "no problems found")
    if faults:
        raise typer.Exit(1)


def _variants(corrupt: str | None) -> tuple[Variant, ...]:
    """Read --corrupt, before anything that takes long."""
    from pass2d.corruptions.registry import parse_variants

    return () if corrupt is None else parse_variants(corrupt)


def _prepare(
    listing: SourceListing,
    cache_root: str,
    config: PrepareConfig,
    console: Console,
    variants: Sequence[Variant],
    *,
    plan: bool,
    as_json: bool,
) -> None:
    """Prepare the clean data set, then a corrupted one per corruption and severity."""
    from pass2d.pipeline.corrupted import corrupted_listings
    from pass2d.pipeline.prepare import plan as plan_listing
    from pass2d.pipeline.prepare import prepare_all
    from pass2d.pipeline.run.describe import plan_json, plan_lines, summary_json, summary_lines

    listings = [listing, *corrupted_listings(listing, variants)]
    if plan:
        places = [dataset_location(cache_root, li.info.name) for li in listings]
        plans = {
            li.info.name: plan_listing(li, location, config)
            for li, location in zip(listings, places, strict=True)
        }
        documents = [{"dataset": name, **plan_json(planned)} for name, planned in plans.items()]
        headings = {name: [f"{name}:"] if variants else [] for name in plans}
        texts = [
            "\n".join(map(one_line, [*headings[name], *plan_lines(planned)]))
            for name, planned in plans.items()
        ]
    else:
        summaries = prepare_all(listings, cache_root, config, console)
        console.close()
        documents = [summary_json(summary) for summary in summaries]
        texts = [
            "\n".join(one_line(in_options(line)) for line in summary_lines(summary))
            for summary in summaries
        ]
    if as_json:
        print_json({"datasets": documents} if variants else documents[0])
    else:
        typer.echo("\n\n".join(texts))
    if not plan and any(summary.failed for summary in summaries):
        raise typer.Exit(1)
