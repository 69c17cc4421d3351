"""Makes trained ONNX models small and fast: joint low-rank compression with ranks chosen by beam search.

`compress` is the main job, `sweep`, `inspect`, `evaluate`, `check`, `bench` and `apply_plan` are the program's
other commands. Options are the program's own, with `_` for `-`.
"""

from ._api import Report, apply_plan, bench, check, compress, evaluate, inspect, sweep
from ._errors import (
    DataError,
    FileError,
    MetricError,
    ModelError,
    OnnxBsrError,
    OptionError,
    PlanError,
    RatioError,
    TractError,
    TrainingError,
)
from ._native import __version__

__all__ = [
    "DataError",
    "FileError",
    "MetricError",
    "ModelError",
    "OnnxBsrError",
    "OptionError",
    "PlanError",
    "RatioError",
    "Report",
    "TractError",
    "TrainingError",
    "__version__",
    "apply_plan",
    "bench",
    "check",
    "compress",
    "evaluate",
    "inspect",
    "sweep",
]
