"""Messages of the library in the terms of the command line.

The library names its own arguments and functions in backquotes: "choose one by `dataset`",
"`workers=0` does without Ray", "repair the cache (`repair`)". Here, and only here, they become the
options and commands that a user types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

COMMANDS = {
    "benchmark": "pass2d cache bench",
    "check": "pass2d prepare ... --check",
    "collect_garbage": "pass2d cache gc",
    "describe_template": "pass2d prepare --describe-template",
    "doctor": "pass2d doctor",
    "evaluate": "pass2d eval",
    "export": "pass2d export",
    "fit": "pass2d train",
    "gc": "pass2d cache gc",
    "import_checkpoint": "pass2d import",
    "plan": "pass2d cache plan",
    "predict": "pass2d predict",
    "prepare": "pass2d prepare",
    "prepare_nuscenes": "pass2d prepare nuscenes",
    "prepare_semkitti": "pass2d prepare semkitti",
    "repair": "pass2d cache repair",
    "status": "pass2d cache status",
    "submit": "pass2d submit",
    "verify": "pass2d cache verify",
}
"""Function of the library -> what is typed to call it."""

OPTIONS = {
    name: "--" + name.replace("_", "-")
    for name in (
        *("allow_partial", "backend", "baseline_only", "batch_size", "checkpoint", "clean"),
        *("columns", "confidence", "corrupt", "corruptions", "dataset", "description", "device"),
        *("drop_invalid", "dtype", "format", "html", "image_size", "json", "layout", "limit"),
        *(
            "local_cache",
            "local_cache_gb",
            "map",
            "meta",
            "moving",
            "no_checkpoint",
            "nproc",
            "out",
        ),
        *("output", "outside", "overwrite", "pictures", "png", "predictions", "preset"),
        *("profile", "ray_address", "recenter", "recipe", "resume", "root", "rotate", "run"),
        "neighbours",
        *("save", "scan", "scans", "scenes", "seed", "sequences", "set", "signal_scale", "split"),
        *("splits", "sweeps", "task", "topic", "unfinished", "unit", "version", "votes"),
        *("workers", "z_offset"),
    )
} | {"cache_root": "--cache", "formats": "--format", "run_root": "--run", "verify_zip": "--verify"}
"""Argument of the library -> option."""

MESSAGES = ("error", "failed", "message", "notes", "option", "problems", "reason", "remedy", "text")
"""Keys of JSON documents whose strings are messages of the library; all others are data."""

_TERM = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`\s]+))?`")
_CALL = re.compile(r"`([a-z_]+)\(((?:[a-z_]+=[^`,\s]+(?:, )?)+)\)`")


def in_options(text: str) -> str:
    """A message of the library, with options and commands for arguments and functions.

    >>> in_options("name them: `columns=4`, `overwrite=True`; or `repair` the cache")
    'name them: --columns 4, --overwrite; or `pass2d cache repair` the cache'
    """
    return _TERM.sub(_replacement, _CALL.sub(_typed_call, text))


def typed_messages(value: Any, key: str = "") -> Any:
    """A JSON document whose messages are `in_options`."""
    if isinstance(value, Mapping):
        return {name: typed_messages(item, name) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [typed_messages(item, key) for item in value]
    return in_options(value) if isinstance(value, str) and key in MESSAGES else value


def _typed_call(call: re.Match[str]) -> str:
    name, arguments = call.groups()
    if name not in COMMANDS:
        return call[0]
    typed = (in_options(f"`{argument}`") for argument in arguments.split(", "))
    return f"`{' '.join([COMMANDS[name], *typed])}`"


def _replacement(term: re.Match[str]) -> str:
    name, value = term.groups()
    if name in OPTIONS:
        return OPTIONS[name] if value in (None, "True") else f"{OPTIONS[name]} {value}"
    if name in COMMANDS and value is None:
        return f"`{COMMANDS[name]}`"
    return term[0]
