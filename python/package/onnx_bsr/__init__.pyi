import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, Union

from numpy.typing import ArrayLike

__version__: str

class _ModelProto(Protocol):
    def SerializeToString(self) -> bytes: ...

class _Tensor(Protocol):
    def numpy(self) -> Any: ...

Path = Union[str, os.PathLike[str]]
Model = Union[Path, bytes, bytearray, memoryview, _ModelProto]
Array = Union[ArrayLike, _Tensor]
Batch = Union[Mapping[str, Array], Array, tuple[Any, Any]]
Data = Union[Path, Batch, Iterable[Batch]]
Labels = Union[Path, Array]
Metric = Union[str, Callable[[Any], float]]
Numbers = Union[float, Sequence[float]]
Texts = Union[str, Sequence[str]]
Shapes = Union[Mapping[str, Sequence[int]], Sequence[str], str]
Time = Union[float, str]
Progress = Callable[[str, int, Union[int, None], str], object]

class OnnxBsrError(Exception):
    reason: str
    hint: str | None
    def __init__(self, message: str, hint: str | None = None) -> None: ...

class FileError(OnnxBsrError, OSError): ...
class ModelError(OnnxBsrError, ValueError): ...
class DataError(OnnxBsrError, ValueError): ...
class OptionError(OnnxBsrError, ValueError): ...

class RatioError(OptionError):
    largest: float | None

class PlanError(OnnxBsrError, ValueError): ...
class TractError(OnnxBsrError, RuntimeError): ...
class MetricError(OnnxBsrError, RuntimeError): ...
class TrainingError(OnnxBsrError, RuntimeError): ...

class Report(dict[str, Any]):
    model_bytes: bytes | None
    plan: str | None

def compress(
    model: Model,
    output: Path | None = None,
    *,
    ratio: float | str | None = None,
    target: str | None = None,
    latency_table: Path | None = None,
    metric: Metric | None = None,
    max_drop: float | None = None,
    save_plan: Path | bool | None = None,
    report: Path | None = None,
    force: bool = False,
    test: Data | None = None,
    test_labels: Labels | None = None,
    data: Data | None = None,
    labels: Labels | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    scale: float | None = None,
    layout: str | None = None,
    image_size: int | tuple[int, int] | str | None = None,
    resize: str | None = None,
    channels: str | None = None,
    class_axis: int | None = None,
    shape: Shapes | None = None,
    quantize: str | bool | None = None,
    rounding: str | None = None,
    block: int | None = None,
    range: str | None = None,
    signed: bool = False,
    seven_bits: bool = False,
    float_ends: bool = False,
    float: Texts | None = None,
    include: Texts | None = None,
    exclude: Texts | None = None,
    schemes: Texts | None = None,
    rank_multiple: int | str | None = None,
    search: str | None = None,
    beam: int | None = None,
    max_evals: int | None = None,
    time_limit: Time | None = None,
    cache_dir: Path | None = None,
    statistics: str | None = None,
    calibration_samples: int | None = None,
    search_samples: int | None = None,
    seed: int | None = None,
    train: Data | None = None,
    train_labels: Labels | None = None,
    resume: Path | None = None,
    epochs: float | None = None,
    train_time: Time | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
    decay: float | None = None,
    train_batch: int | None = None,
    distill: float | None = None,
    match: Texts | None = None,
    match_weight: float | None = None,
    train_memory: int | str | None = None,
    msr: float | None = None,
    msr_power: int | None = None,
    stages: int | None = None,
    rounded_share: float | None = None,
    augment: Texts | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report: ...

def sweep(
    model: Model,
    folder: Path,
    *,
    ratios: Sequence[float] | str,
    target: str | None = None,
    latency_table: Path | None = None,
    metric: Metric | None = None,
    max_drop: float | None = None,
    test: Data | None = None,
    test_labels: Labels | None = None,
    data: Data | None = None,
    labels: Labels | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    scale: float | None = None,
    layout: str | None = None,
    image_size: int | tuple[int, int] | str | None = None,
    resize: str | None = None,
    channels: str | None = None,
    class_axis: int | None = None,
    shape: Shapes | None = None,
    quantize: str | bool | None = None,
    rounding: str | None = None,
    block: int | None = None,
    range: str | None = None,
    signed: bool = False,
    seven_bits: bool = False,
    float_ends: bool = False,
    float: Texts | None = None,
    include: Texts | None = None,
    exclude: Texts | None = None,
    schemes: Texts | None = None,
    rank_multiple: int | str | None = None,
    search: str | None = None,
    beam: int | None = None,
    max_evals: int | None = None,
    time_limit: Time | None = None,
    cache_dir: Path | None = None,
    statistics: str | None = None,
    calibration_samples: int | None = None,
    search_samples: int | None = None,
    seed: int | None = None,
    train: Data | None = None,
    train_labels: Labels | None = None,
    epochs: float | None = None,
    train_time: Time | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
    decay: float | None = None,
    train_batch: int | None = None,
    distill: float | None = None,
    match: Texts | None = None,
    match_weight: float | None = None,
    train_memory: int | str | None = None,
    msr: float | None = None,
    msr_power: int | None = None,
    stages: int | None = None,
    rounded_share: float | None = None,
    augment: Texts | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report: ...

def inspect(
    model: Model,
    *,
    sort: str | None = None,
    only: Texts | None = None,
    data: Data | None = None,
    labels: Labels | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    scale: float | None = None,
    layout: str | None = None,
    image_size: int | tuple[int, int] | str | None = None,
    resize: str | None = None,
    channels: str | None = None,
    class_axis: int | None = None,
    shape: Shapes | None = None,
    include: Texts | None = None,
    exclude: Texts | None = None,
    schemes: Texts | None = None,
    rank_multiple: int | str | None = None,
    threads: int | None = None,
) -> Report: ...

def evaluate(
    model: Model,
    data: Data | None = None,
    *,
    labels: Labels | None = None,
    reference: Model | None = None,
    metric: Metric | None = None,
    runtime: str | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    scale: float | None = None,
    layout: str | None = None,
    image_size: int | tuple[int, int] | str | None = None,
    resize: str | None = None,
    channels: str | None = None,
    class_axis: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report: ...

def check(
    a: Model,
    b: Model,
    *,
    data: Data | None = None,
    labels: Labels | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    scale: float | None = None,
    layout: str | None = None,
    image_size: int | tuple[int, int] | str | None = None,
    resize: str | None = None,
    channels: str | None = None,
    class_axis: int | None = None,
    shape: Shapes | None = None,
    seed: int | None = None,
    tolerance: float | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report: ...

def bench(
    a: Model,
    b: Model | None = None,
    *,
    table: Path | None = None,
    shape: Shapes | None = None,
    include: Texts | None = None,
    exclude: Texts | None = None,
    schemes: Texts | None = None,
    rank_multiple: int | str | None = None,
    runs: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report: ...

def apply_plan(
    model: Model,
    plan: Path | str | Mapping[str, Any],
    output: Path | None = None,
    *,
    force: bool = False,
    threads: int | None = None,
) -> Report: ...
