"""The names that a published checkpoint's pickle may contain, and their meaning.

Nothing named here is ever imported. The lists only distinguish ordinary files from those that try
to run code, so that the user is warned; reading is safe because nothing is called at all.
"""

from __future__ import annotations

import sys

import torch

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
STORAGE_DTYPES = {
    (module, name): dtype for module in ("torch", "torch.cuda") for name, dtype in _DTYPES.items()
}
"""Classes whose instances are raw memory."""

ORDERED_DICT = ("collections", "OrderedDict")
ENCODE = ("_codecs", "encode")
"""How older protocols write bytes: as text with "latin1"."""
REBUILD_TENSOR = {
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
}
REBUILD_PARAMETER = {
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"),
}

_PLAIN_STDLIB = {
    "collections": {"OrderedDict", "defaultdict", "Counter", "deque"},
    "_codecs": {"encode"},
    "copyreg": {"_reconstructor"},
    "argparse": {"Namespace"},
    "types": {"SimpleNamespace"},
    "datetime": {"datetime", "date", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "uuid": {"UUID"},
    "pathlib": {"Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "builtins": {
        *("set", "frozenset", "list", "dict", "tuple", "bytearray", "slice", "range", "xrange"),
        *("int", "long", "float", "complex", "bool", "str", "unicode", "bytes", "object"),
    },
}
_OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg", "pathlib._local": "pathlib"}
"""Python 2's names, and a moved module."""
_PLAIN_FUNCTIONS = {
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
}
"""Functions and lower-case classes that rebuild plain values."""


def is_mentionable(module: str, name: str) -> bool:
    """Whether an ordinary checkpoint could name this; if not, the file is hostile.

    Of Python's own library only plain containers and values; of everything else any class, nested
    or not, but no way through another module ("torch.serialization", "os.system").
    """
    module = _OLD_NAMES.get(module, module)
    if module.split(".")[0] in sys.stdlib_module_names or module in ("commands", "exceptions"):
        return name in _PLAIN_STDLIB.get(module, ())
    return all(_is_class_name(part) for part in name.split(".")[:-1])


def is_callable_inertly(module: str, name: str) -> bool:
    """Whether calling this only builds an object, by Python's habit: classes have capitals."""
    module = _OLD_NAMES.get(module, module)
    if module in _PLAIN_STDLIB:
        return name in _PLAIN_STDLIB[module]
    own_name = name.rsplit(".", maxsplit=1)[-1]
    return _is_class_name(own_name) or (module, name) in _PLAIN_FUNCTIONS


def _is_class_name(name: str) -> bool:
    return name.lstrip("_")[:1].isupper()
