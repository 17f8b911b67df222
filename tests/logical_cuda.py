"""A logical CUDA device on a machine without a GPU: the real code runs, computed by the CPU.

A `DeviceTensor` says ``device == cuda:0`` to Python and holds an ordinary tensor. Every ATen
operation on one passes through `execute`, which

- refuses what CUDA refuses: a CPU tensor among device tensors, ``numpy()``, strides that fused
  optimizers do not take (`WrongDeviceError`, as far as torch has no error of its own for it);
- records what makes the host wait for the device, by phase of a training step and line of pass2d;
- records sums whose order CUDA leaves open, so that results differ from run to run;
- watches pinned memory from a copy to the event after it (`InFlight`);
- follows streams and events (`Streams`): a tensor of another stream is refused without an event
  that says that it has been written, and without `record_stream`.

spconv's implicit GEMM, which no CPU has, is `logical_spconv`. Not tested here: kernels, speed,
NCCL. torch's FakeTensor cannot do this: the numbers of voxels are data.
"""

from __future__ import annotations

import contextlib
import linecache
import sys
import threading
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import pass2d

CPU = torch.device("cpu")
PACKAGE = str(Path(pass2d.__file__).parent) + "/"
STAGED_BYTES = 64 * 1024
"""Up to here CUDA takes a copy from pageable memory into its command queue; above, the host waits
until it is staged."""
PROPERTIES = SimpleNamespace(name="Logical", major=9, minor=0, total_memory=80 << 30)
"""Of every GPU."""
aten = torch.ops.aten
real_autocast = torch.autocast


class WrongDeviceError(RuntimeError):
    """What CUDA, or a library on it, would refuse."""


# What happened.


@dataclass(frozen=True)
class Line:
    """A line of pass2d."""

    file: str
    """Below the package: "train/data/stream.py"."""
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


NOWHERE = Line("torch", 0, "")


@dataclass(frozen=True)
class Wait:
    """The host waits for the device."""

    phase: str
    what: str
    line: Line


@dataclass
class Record:
    """What happened on the device since the record was begun."""

    waits: Counter[Wait] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    """ATen operations that start a kernel or a copy, by phase."""
    sites: Counter[tuple[str, Line]] = field(default_factory=Counter)
    """The same by phase and line."""
    unordered: Counter[tuple[str, Line]] = field(default_factory=Counter)
    """Sums of floats in an order that CUDA leaves open, by operation and line."""

    products: Counter[tuple[str, Line]] = field(default_factory=Counter)
    """Products of matrices and convolutions, which TF32 rounds, by phase and line."""

    def waits_by_phase(self) -> dict[str, int]:
        """Waits of each phase that has some."""
        total: Counter[str] = Counter()
        for wait, times in self.waits.items():
            total[wait.phase] += times
        return dict(total)

    def described_waits(self) -> str:
        """One line per place that waits, the most often first."""
        return "\n".join(
            f"{times} x {wait.phase}: {wait.what} at {wait.line}: {wait.line.text}"
            for wait, times in self.waits.most_common()
        )


class InFlight:
    """Copies that the device may not have made yet: their source must not change until an event."""

    def __init__(self) -> None:
        self._copies: deque[tuple[int, int, Tensor, int, Line]] = deque()
        self._lock = threading.Lock()
        self.begun = 0
        self.verified = 0
        self.broken: list[str] = []
        """Copies whose source changed too early."""

    def begin(self, source: Tensor, line: Line, *, stream: int) -> None:
        """A copy out of pinned memory is asked for."""
        with self._lock:
            self.begun += 1
            self._copies.append((self.begun, stream, source, _checksum(source), line))

    def finish(self, until: int | None = None, *, stream: int = 0) -> None:
        """A stream has made its copies up to a number; None: all streams have made all."""
        with self._lock:
            remaining: deque[tuple[int, int, Tensor, int, Line]] = deque()
            for copy in self._copies:
                number, own, source, checksum, line = copy
                if until is not None and (number > until or own != stream):
                    remaining.append(copy)
                    continue
                self.verified += 1
                if _checksum(source) != checksum:
                    self.broken.append(f"copy {number}, asked for at {line}: its source changed")
            self._copies = remaining


class Streams:
    """Which stream has written what, and what each stream has waited for."""

    def __init__(self) -> None:
        self.current = 0
        self.count = 1
        self._done = Counter[int]()
        """Operations asked of each stream."""
        self._seen: dict[int, Counter[int]] = {}
        """By stream: up to which operation of each other one it is known to come after."""
        self._host = Counter[int]()
        """Up to which operation of each stream the host has waited."""
        self._written: dict[int, tuple[int, int]] = {}
        """By address: stream and operation of the last writer."""
        self._owner: dict[int, int] = {}
        """By address: the stream on which the memory was asked for."""
        self._lent: dict[int, set[int]] = {}
        """By address: streams that `record_stream` named."""

    def position(self, stream: int) -> Counter[int]:
        """What is done when all that has been asked of a stream so far is done."""
        seen = Counter(self._seen_of(stream))
        seen[stream] = self._done[stream]
        return seen

    def wait(self, stream: int, position: Counter[int]) -> None:
        """A stream goes on only after a position."""
        self._seen[stream] = self._seen_of(stream) | position

    def host_waited(self, stream: int) -> None:
        """For all that was asked of a stream."""
        self._host |= self.position(stream)

    def lend(self, tensor: Tensor, stream: int) -> None:
        """`record_stream`."""
        self._lent.setdefault(_address(tensor), set()).add(stream)

    def use(
        self, read: Sequence[Tensor], written: Sequence[Tensor], made: Sequence[Tensor]
    ) -> None:
        """An operation on the current stream.

        Raises:
            WrongDeviceError: a tensor is another stream's, and nothing keeps the two in order.
        """
        stream = self.current
        if self.count == 1:
            return
        self._done[stream] += 1
        for tensor in read:
            self._require_order(tensor, stream)
        for tensor in written:
            self._written[_address(tensor)] = (stream, self._done[stream])
        for tensor in made:
            address = _address(tensor)
            self._written[address] = (stream, self._done[stream])
            self._owner[address] = stream
            self._lent.pop(address, None)

    def _require_order(self, tensor: Tensor, stream: int) -> None:
        address = _address(tensor)
        writer, number = self._written.get(address, (0, 0))
        if writer != stream and number > max(self._seen_of(stream)[writer], self._host[writer]):
            raise WrongDeviceError(
                f"stream {stream} uses {tuple(tensor.shape)} of stream {writer} at "
                f"{device().here()[1]}, without an event that says that it has been written"
            )
        owner = self._owner.get(address, 0)
        if owner != stream and address and stream not in self._lent.get(address, ()):
            raise WrongDeviceError(
                f"stream {stream} uses memory {tuple(tensor.shape)} of stream {owner} at "
                f"{device().here()[1]}, without record_stream: it may be given away too early"
            )

    def _seen_of(self, stream: int) -> Counter[int]:
        return self._seen.get(stream) or Counter()


def _address(tensor: Tensor) -> int:
    return plain(tensor).untyped_storage().data_ptr()


class Device:
    """The logical device while it is on."""

    def __init__(self, index: int, phases: Mapping[CodeType, str]) -> None:
        self.torch_device = torch.device("cuda", index)
        self.current = 0
        """Index of the current device, on which spconv would launch."""
        self.phases = phases
        self.record = Record()
        self.in_flight = InFlight()
        self.streams = Streams()
        self.pinned: dict[int, Tensor] = {}
        """By address, and so alive."""

    def begin_record(self) -> Record:
        """What happens from now on."""
        self.record = Record()
        return self.record

    def wait(self, what: str, times: int = 1) -> None:
        """The host waits."""
        phase, line = self.here()
        self.streams.host_waited(self.streams.current)
        self.record.waits[Wait(phase, what, line)] += times

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether it lies in pinned memory."""
        return tensor.untyped_storage().data_ptr() in self.pinned

    def here(self) -> tuple[str, Line]:
        """The phase, and the innermost line of pass2d on the stack."""
        phase, line = line_of_stack(self.phases)
        if phase == "backward" and line is NOWHERE:
            line = _line_of_node() or line
        return phase or "other", line


def line_of_stack(phases: Mapping[CodeType, str]) -> tuple[str, Line]:
    """The phase of whoever calls, "" in none, and the innermost line of pass2d on the stack."""
    line = NOWHERE
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if line is NOWHERE and _is_ours(code):
            line = _line(code.co_filename, frame.f_lineno)
        if code in phases:
            return phases[code], line
        frame = frame.f_back
    return "", line


@cache
def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(PACKAGE)


@cache
def _line(filename: str, number: int) -> Line:
    text = linecache.getline(filename, number).strip()
    return Line(filename.removeprefix(PACKAGE), number, text)


def _line_of_node() -> Line | None:
    """In a backward pass: the line whose operation is being differentiated."""
    node = torch._C._current_autograd_node()
    return None if node is None else node.metadata.get("line")


_on: list[Device] = []


def device() -> Device:
    """The device that is on."""
    return _on[-1]


def _checksum(tensor: Tensor) -> int:
    with _plainly():
        return zlib.crc32(np.ascontiguousarray(tensor.detach().numpy()).tobytes())


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Within, CPU tensors are computed with as if nothing were changed."""
    with _disable_current_modes(), real_autocast("cpu", enabled=False):
        yield


# The tensor.


class DeviceTensor(Tensor):
    """A tensor that says that it lies on the device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> DeviceTensor:
        assert not isinstance(inner, DeviceTensor)
        # The wrapper itself is a CPU tensor: torch's engine would ask the driver for any other.
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=CPU,
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype})"

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return device().torch_device

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def record_stream(self, s: Any) -> None:
        device().streams.lend(self, s.number)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        own = _OWN_METHODS.get(func)
        if own is not None and isinstance(args[0], DeviceTensor):
            return own(*args, **kwargs)
        _inside.depth = getattr(_inside, "depth", 0) + 1
        try:
            with torch._C.DisableTorchFunctionSubclass():
                result = func(*args, **kwargs)
        finally:
            _inside.depth -= 1
        node = result.grad_fn if isinstance(result, DeviceTensor) else None
        if node is not None and "line" not in node.metadata:
            node.metadata["line"] = device().here()[1]
        return result

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return execute(func, args, kwargs or {})


_inside = threading.local()
"""Depth of calls on a device tensor: what C++ makes within, without an argument on the device, it
makes on the wrapper's own device, which says CPU, and means the device."""


def fresh(inner: Tensor) -> DeviceTensor:
    """A tensor that the device has just made."""
    device().streams.use((), (), [inner])
    return DeviceTensor(inner)


def plain(tensor: Tensor) -> Tensor:
    """What a test may look at: the values of a tensor of either device."""
    return tensor.inner if isinstance(tensor, DeviceTensor) else tensor


class _ToHost(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, value: DeviceTensor, dtype: torch.dtype | None) -> Tensor:
        inner = value.inner.detach().clone()
        return inner if dtype is None else inner.to(dtype)

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Any:
        return fresh(grads[0]), None


def _to_host(value: DeviceTensor, what: str, dtype: torch.dtype | None = None) -> Tensor:
    device().wait(what)
    return _ToHost.apply(value, dtype)


def _numpy(_self: DeviceTensor, *_: Any, **__: Any) -> Any:
    raise TypeError(
        f"can't convert {device().torch_device} device type tensor to numpy. Use Tensor.cpu() to "
        "copy the tensor to host memory first."
    )


def _refused(name: str) -> Callable[..., Any]:
    def refuse(_self: DeviceTensor, *_: Any, **__: Any) -> Any:
        raise WrongDeviceError(f"{name} of a device tensor at {device().here()[1]}")

    return refuse


def _to(self: DeviceTensor, *args: Any, **kwargs: Any) -> Any:
    like = next((a for a in args if isinstance(a, Tensor)), None)
    if like is not None:
        wanted, dtype = like.device, like.dtype
    else:
        known = {k: v for k, v in kwargs.items() if k != "copy"}
        wanted, dtype, _, _ = torch._C._nn._parse_to(*args, **known)
    if wanted is not None and wanted.type == "cpu":
        return _to_host(self, "copy to the host", dtype)
    rest = {k: v for k, v in kwargs.items() if k in ("copy", "memory_format")}
    if dtype is None and not rest:
        return self
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.to(self, dtype=dtype or self.dtype, **rest)


def _tolist(self: DeviceTensor) -> Any:
    device().wait("tolist")
    return self.inner.detach().tolist()


_OWN_METHODS: dict[Any, Callable[..., Any]] = {
    Tensor.cpu: lambda self, *_, **__: _to_host(self, "copy to the host"),
    Tensor.cuda: lambda self, *_, **__: self,
    Tensor.numpy: _numpy,
    Tensor.__array__: _numpy,
    Tensor.to: _to,
    Tensor.tolist: _tolist,
    Tensor.data_ptr: lambda self: self.inner.data_ptr(),
    Tensor.pin_memory: _refused("pin_memory"),
    Tensor.is_pinned: lambda _self, *_: False,
    Tensor.get_device: lambda self: self.device.index,
}

# Operations.

_NO_KERNEL = {
    "aten::detach",
    "aten::alias",
    "aten::view",
    "aten::_unsafe_view",
    "aten::empty",
    "aten::empty_like",
    "aten::new_empty",
    "aten::empty_strided",
    "aten::new_empty_strided",
    "aten::set_",
    "aten::lift_fresh",
    "aten::is_same_size",
    "aten::_local_scalar_dense",
    "aten::record_stream",
}
_WAITS = {
    "aten::nonzero": 1,
    "aten::masked_select": 1,
    "aten::_unique2": 1,
    "aten::unique_dim": 1,
    "aten::unique_consecutive": 1,
    "aten::bincount": 2,  # the input's smallest and largest are read back
    "aten::_local_scalar_dense": 1,
    "aten::equal": 1,
    "aten::is_nonzero": 1,
    "aten::histc": 1,
}
_INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
# Sums of floats by atomic additions, or by a scan in an order of its own; whether torch has a fixed
# order for it under `torch.use_deterministic_algorithms` (its documentation, torch 2.11).
_UNORDERED = {
    "aten::index_add": True,
    "aten::index_add_": True,
    "aten::scatter_add": True,
    "aten::scatter_add_": True,
    "aten::scatter_reduce": True,
    "aten::scatter_reduce_": True,
    "aten::index_select_backward": True,
    "aten::index_put": True,
    "aten::index_put_": True,
    "aten::_index_put_impl_": True,
    "aten::convolution_backward": True,
    "aten::cumsum": False,
    "aten::cumsum_": False,
    "aten::put_": False,
    "aten::max_pool2d_with_indices_backward": False,
    "aten::histc": False,
    "aten::median": False,
    "aten::upsample_bilinear2d_backward": False,
    "aten::_upsample_bilinear2d_aa_backward": False,
    "aten::adaptive_avg_pool2d_backward": False,
    "aten::embedding_dense_backward": True,
}
_PRODUCTS = {
    f"aten::{name}"
    for name in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "convolution", "linear")
}
_FUSED = {"aten::_fused_sgd_", "aten::_fused_adam_", "aten::_fused_adamw_"}


class Operation(NamedTuple):
    """What an ATen operation's schema says."""

    name: str
    is_kernel: bool
    """Whether it starts a kernel or a copy."""
    written: tuple[tuple[int, str], ...]
    """Place and name of the arguments that it returns, having written into them."""


@cache
def _operation(func: Any) -> Operation:
    schema = func._schema
    aliases = [returned.alias_info for returned in schema.returns]
    is_view = bool(aliases) and aliases[0] is not None and not aliases[0].is_write
    written = [
        next(
            (place, argument.name)
            for place, argument in enumerate(schema.arguments)
            if argument.alias_info is not None
            and argument.alias_info.before_set == alias.before_set
        )
        for alias in aliases
        if alias is not None and alias.is_write
    ]
    return Operation(schema.name, schema.name not in _NO_KERNEL and not is_view, tuple(written))


def execute(func: Any, args: Any, kwargs: Any) -> Any:
    """Do one ATen operation as the device would."""
    operation = _operation(func)
    name = operation.name
    on_device: list[DeviceTensor] = []
    on_host: list[Tensor] = []
    inner_args = _unwrapped(args, on_device, on_host)
    inner_kwargs = {k: _unwrapped(v, on_device, on_host) for k, v in kwargs.items()}
    if not on_device and not _makes_on_device(kwargs.get("device"), has_tensor=bool(on_host)):
        return func(*args, **kwargs)
    if name == "aten::_to_copy":
        return _to_copy(func, args, kwargs)
    if name == "aten::copy_":
        return _copy_into(func, args, kwargs)
    if on_host and on_device:
        _refuse_mix(name, on_host, on_device, args)
    if name in _FUSED:
        _refuse_strides(name, args)
    _note_wait(func, name, args, kwargs)
    _note_order(name, args, kwargs, on_device)
    if name in _PRODUCTS:
        device().record.products[device().here()] += 1
    if "device" in inner_kwargs:
        inner_kwargs["device"] = CPU
    inner_kwargs.pop("pin_memory", None)
    with torch._C._DisableTorchDispatch():
        result = func(*inner_args, **inner_kwargs)
    if name == "aten::_local_scalar_dense":
        return result
    if operation.is_kernel:
        _count()
    written = [kwargs[n] if n in kwargs else args[place] for place, n in operation.written]
    _note_streams(on_device, written, result, is_kernel=operation.is_kernel)
    if operation.written:
        return _written(operation, args, kwargs)
    return _wrapped(result)


def _unwrapped(value: Any, on_device: list[DeviceTensor], on_host: list[Tensor]) -> Any:
    """The same with inner tensors; lists what it finds."""
    if isinstance(value, DeviceTensor):
        on_device.append(value)
        return value.inner
    if isinstance(value, Tensor):
        on_host.append(value)
    elif isinstance(value, (list, tuple)):
        return type(value)([_unwrapped(item, on_device, on_host) for item in value])
    return value


def _wrapped(value: Any) -> Any:
    if isinstance(value, Tensor):
        return DeviceTensor(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_wrapped(item) for item in value])
    return value


def _makes_on_device(wanted: Any, *, has_tensor: bool) -> bool:
    """Whether an operation without a device tensor works on the device all the same."""
    if wanted is None:
        return False
    is_inner = not has_tensor and getattr(_inside, "depth", 0) > 0
    return is_inner or torch.device(wanted).type == "cuda"


def _count() -> None:
    phase, line = device().here()
    device().record.calls[phase] += 1
    device().record.sites[phase, line] += 1


def _note_streams(
    read: Sequence[Tensor], written: Sequence[Any], result: Any, *, is_kernel: bool = True
) -> None:
    """What was read and written, and what of the result lies in memory of its own."""
    streams = device().streams
    if streams.count == 1:
        return
    flat = [t for item in written for t in (item if isinstance(item, (list, tuple)) else [item])]
    known = {_address(tensor) for tensor in read}
    results = result if isinstance(result, (list, tuple)) else [result]
    made = [r for r in results if isinstance(r, Tensor) and _address(r) not in known]
    streams.use(read if is_kernel else (), [t for t in flat if isinstance(t, Tensor)], made)


def _written(operation: Operation, args: Any, kwargs: Any) -> Any:
    """The arguments that an operation has written into."""
    found = [kwargs[name] if name in kwargs else args[place] for place, name in operation.written]
    for value in found:
        if isinstance(value, DeviceTensor) and value.inner.shape != value.shape:
            raise WrongDeviceError(f"{operation.name} resizes an output at {device().here()[1]}")
    return found[0] if len(found) == 1 else tuple(found)


def _refuse_mix(name: str, on_host: list[Tensor], on_device: list[DeviceTensor], args: Any) -> None:
    if name in _INDEXED and isinstance(args[0], DeviceTensor):
        device().wait("an index of the host is copied")
        return
    for tensor in on_host:
        if tensor.dim() == 0 and not tensor.requires_grad:
            continue
        if tensor.numel() == 0 and name.startswith("aten::convolution"):
            continue  # how the engine says "no bias"
        raise WrongDeviceError(
            f"{name}: Expected all tensors to be on the same device, but a CPU tensor "
            f"{tuple(tensor.shape)} meets device tensors "
            f"{[tuple(other.shape) for other in on_device][:3]} at {device().here()[1]}"
        )


def _refuse_strides(name: str, args: Any) -> None:
    """As ATen's check_fast_path_restrictions: same sizes and strides in all lists."""
    parameters, *others = [item for item in args if isinstance(item, (list, tuple)) and item]
    for values in others:
        for parameter, value in zip(parameters, values, strict=False):
            if value.dim() == 0 and parameter.dim() != 0:
                continue  # the counts of Adam's steps
            strides = zip(parameter.stride(), value.stride(), parameter.shape, strict=True)
            if any(own != other for own, other, size in strides if size != 1):
                raise WrongDeviceError(
                    f"{name}: a parameter {tuple(parameter.shape)} has strides "
                    f"{parameter.stride()}, its gradient or state {value.stride()}"
                )


def _note_wait(func: Any, name: str, args: Any, kwargs: Any) -> None:
    if name in _WAITS:
        device().wait(name.removeprefix("aten::"), _WAITS[name])
    elif func in (aten.masked_fill_.Tensor, aten.masked_fill.Tensor):
        if isinstance(args[2], DeviceTensor):
            device().wait("masked_fill by a device tensor is read back")
    elif name in _INDEXED:
        masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
        if masks:
            device().wait("index by a mask: nonzero", len(masks))
    elif name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
        device().wait("repeat_interleave without output_size")


def _note_order(name: str, args: Any, kwargs: Any, on_device: list[DeviceTensor]) -> None:
    if name not in _UNORDERED:
        return
    if not any(tensor.is_floating_point() for tensor in on_device):
        return  # whole numbers have one sum
    if name.startswith(("aten::index_put", "aten::_index_put")):
        accumulates = kwargs.get("accumulate", args[3] if len(args) > 3 else False)
        if not accumulates:
            return
    if "scatter_reduce" in name and args[4] in ("amin", "amax"):
        return
    if name.startswith("aten::cumsum") and kwargs.get("dtype") in (torch.int32, torch.int64):
        return
    if torch.are_deterministic_algorithms_enabled() and _UNORDERED[name]:
        return
    line = device().here()[1]
    device().record.unordered[name.removeprefix("aten::"), line] += 1
    if torch.are_deterministic_algorithms_enabled():
        raise RuntimeError(f"{name} does not have a deterministic implementation, at {line}")


def _to_copy(func: Any, args: Any, kwargs: Any) -> Any:
    """Between the devices, or to another type on the device."""
    source, options = args[0], dict(kwargs)
    for option in ("device", "pin_memory", "layout"):
        options.pop(option, None)
    is_asynchronous = bool(options.pop("non_blocking", False))
    if isinstance(source, DeviceTensor):
        with _plainly():
            made = func(source.inner, **options)
    else:
        _host_to_device(source, is_asynchronous=is_asynchronous)
        with _plainly():
            made = func(source, **options)
            if made.data_ptr() == source.data_ptr():
                made = made.clone()
    _count()
    _note_streams([source] if isinstance(source, DeviceTensor) else [], [], made)
    return DeviceTensor(made)


def _copy_into(func: Any, args: Any, kwargs: Any) -> Any:
    target, source = args[0], args[1]
    is_asynchronous = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    if not isinstance(target, DeviceTensor):
        device().wait("copy to the host")
    elif not isinstance(source, DeviceTensor):
        _host_to_device(source, is_asynchronous=is_asynchronous)
    with _plainly():
        func(plain(target), plain(source))
    _count()
    on_device = [t for t in (target, source) if isinstance(t, DeviceTensor)]
    _note_streams(on_device, [t for t in on_device if t is target], None)
    return target


def _host_to_device(source: Tensor, *, is_asynchronous: bool) -> None:
    nbytes = source.numel() * source.element_size()
    if not is_asynchronous:
        device().wait("blocking copy to the device")
    elif device().is_pinned(source):
        here = device()
        here.in_flight.begin(source, here.here()[1], stream=here.streams.current)
    elif nbytes > STAGED_BYTES:
        device().wait(f"copy to the device from {nbytes:,} bytes of pageable memory")


class _Mode(TorchDispatchMode):
    """Sees operations that have no tensor yet: torch.zeros(..., device="cuda")."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the guard costs more than the operation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return execute(func, args, kwargs or {})


@contextlib.contextmanager
def in_this_thread() -> Iterator[None]:
    """Within, a thread other than the one that switched the device on sees it too."""
    with _Mode():
        yield


# What torch.cuda offers.


class _Event:
    """Done with all copies and operations that its stream was asked for before it was recorded."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._until, self._stream = 0, 0
        self._device = device()
        self.position: Counter[int] = Counter()

    def record(self, stream: _Stream | None = None) -> None:
        streams = self._device.streams
        self._stream = streams.current if stream is None else stream.number
        self._until = self._device.in_flight.begun
        self.position = streams.position(self._stream)

    def synchronize(self) -> None:  # by the stream's threads: it is no wait of the loop
        self._device.in_flight.finish(self._until, stream=self._stream)

    def query(self) -> bool:
        return True

    def wait(self, stream: _Stream | None = None) -> None:
        (stream or _current_stream()).wait_event(self)


class _Stream:
    cuda_stream = 0

    def __init__(self, *_: Any, number: int | None = None, **__: Any) -> None:
        streams = device().streams
        self.device = device().torch_device
        self.number = streams.count if number is None else number
        if number is None:
            streams.count += 1

    def synchronize(self) -> None:
        device().wait("stream.synchronize")

    def wait_event(self, event: _Event) -> None:
        device().streams.wait(self.number, event.position)

    def wait_stream(self, other: _Stream) -> None:
        device().streams.wait(self.number, device().streams.position(other.number))

    def record_event(self, event: Any = None) -> Any:
        event = event or _Event()
        event.record(self)
        return event


def _current_stream(*_: Any) -> _Stream:
    return _Stream(number=device().streams.current)


@contextlib.contextmanager
def _on_stream(stream: _Stream) -> Iterator[None]:
    streams, before = device().streams, device().streams.current
    streams.current = stream.number
    try:
        yield
    finally:
        streams.current = before


class _Autocast(real_autocast):
    """Wrappers are CPU tensors to the dispatcher, and so is what autocast casts."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


def _index(wanted: Any) -> int:
    return wanted if isinstance(wanted, int) else torch.device(wanted).index or 0


@contextlib.contextmanager
def _current_device(wanted: Any) -> Iterator[None]:
    here, before = device(), device().current
    here.current = _index(wanted)
    try:
        yield
    finally:
        here.current = before


def _patches(here: Device) -> list[tuple[Any, str, Any]]:
    real_empty, real_generator = torch.empty, torch.Generator
    real_group = torch._C._group_tensors_by_device_and_dtype
    is_autocast, autocast_type = torch.is_autocast_enabled, torch.get_autocast_dtype

    def empty(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
        made = real_empty(*args, **kwargs)
        if pin_memory:
            here.pinned[made.untyped_storage().data_ptr()] = made
        return made

    def grouped(lists: Any, with_indices: bool = False) -> Any:
        """For clipping and fused optimizers: torch would group wrappers as CPU tensors."""
        return {
            (next(t for part in value[0] for t in part if t is not None).device, key[1]): value
            for key, value in real_group(lists, with_indices).items()
        }

    def set_device(wanted: Any) -> None:
        here.current = _index(wanted)

    def no_gradients(mode: Any = True) -> Any:  # wrappers have version counters
        return torch.no_grad() if mode else contextlib.nullcontext()

    return [
        (torch.cuda, "_lazy_init", lambda: None),
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "device_count", lambda: here.torch_device.index + 1),
        (torch.cuda, "current_device", lambda: here.current),
        (torch.cuda, "set_device", set_device),
        (torch.cuda, "device", _current_device),
        (torch.cuda, "current_stream", _current_stream),
        (torch.cuda, "stream", _on_stream),
        (torch.cuda, "Event", _Event),
        (torch.cuda, "Stream", _Stream),
        (torch.cuda, "empty_cache", lambda: None),
        (torch.cuda, "synchronize", lambda *_: here.wait("torch.cuda.synchronize")),
        (torch.cuda, "get_device_capability", lambda *_: (9, 0)),
        (torch.cuda, "get_device_properties", lambda *_: PROPERTIES),
        (torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90", "sm_120", "compute_120"]),
        (torch.cuda, "mem_get_info", lambda *_: (PROPERTIES.total_memory, PROPERTIES.total_memory)),
        (torch.cuda, "is_current_stream_capturing", lambda: False),
        (torch.cuda, "is_bf16_supported", lambda *_: True),
        (torch.cuda, "manual_seed", lambda *_: None),
        (torch.cuda, "manual_seed_all", lambda *_: None),
        (torch, "empty", empty),
        (torch, "autocast", _Autocast),
        (torch, "inference_mode", no_gradients),
        (torch, "Generator", lambda device=None: real_generator()),
        (torch, "is_autocast_enabled", lambda kind=None: is_autocast("cpu")),
        (torch, "get_autocast_dtype", lambda kind: autocast_type("cpu")),
        (torch._C, "_group_tensors_by_device_and_dtype", grouped),
        (
            _foreach_utils,
            "_foreach_supported_types",
            [*_foreach_utils._foreach_supported_types, DeviceTensor],
        ),
    ]


@contextlib.contextmanager
def logical_cuda(
    *, index: int = 0, phases: Mapping[CodeType, str] | None = None
) -> Iterator[Device]:
    """Within, torch says that there are GPUs up to an index; device tensors lie on that one.

    Args:
        index: of the device.
        phases: what is going on while a function is on the stack.
    """
    import torch._dynamo  # torch would load it within, where it meets the patches

    here = Device(index, phases or {})
    _on.append(here)
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # Module.to: new parameters
    try:
        with contextlib.ExitStack() as stack:
            for owner, name, value in _patches(here):
                stack.enter_context(mock.patch.object(owner, name, value))
            stack.enter_context(_Mode())
            yield here
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
        _on.pop()
