"""The commands as functions."""

import inspect as _inspect
import json
import logging
import os
from collections.abc import Mapping

from . import _native
from ._data import Sources, is_path
from ._options import arguments, flags

_LOG = logging.getLogger("onnx_bsr")

_OWN = ("data", "labels", "test", "test_labels", "train", "train_labels", "metric", "save_plan", "reference")


class Report(dict):
    """What a command reports: the document that `--json` prints.

    `model_bytes` is the model where it was not written to a path, `plan` the plan where `save_plan=True`
    asked for it; both are None otherwise.
    """

    model_bytes = None
    plan = None

    def __repr__(self):
        return f"Report({json.dumps(self, indent=1)})"


class _Work:
    """One call: its files, its data, its command line."""

    def __init__(self, function, command, options):
        self.function = function
        self.scratch = _native.Scratch()
        self.sources = Sources(self.scratch)
        self.known = flags(command)
        self.line = ["onnx-bsr"] + ([command] if command else [])
        self.held = {}
        self.metric = None
        self.own = {name: options.pop(name, None) for name in _OWN if name in self.known}
        self.options = options

    def model(self, model, name):
        """A model's path: its own, or that of a file with its bytes."""
        if is_path(model):
            return model
        if hasattr(model, "SerializeToString"):
            model = model.SerializeToString()
        if not isinstance(model, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"{self.function}(): a model is a path, bytes or a ModelProto, not {type(model).__name__}"
            )
        return self.scratch.put(name, bytes(model))

    def run(self, *places, progress=None):
        line = list(self.line)
        for name in ("data", "test", "train"):
            if name in self.known:
                labels = "labels" if name == "data" else f"{name}_labels"
                part, samples = self.sources.flags(name, self.own[name], self.own[labels])
                line += part
                self.held[name] = samples
        metric = self.own.get("metric")
        if callable(metric):
            self.metric = getattr(metric, "__name__", type(metric).__name__), metric
            # Holds the function's place: with a metric of files no data are needed.
            line.append("--metric=cmd:function")
        elif metric is not None:
            line.append(f"--metric={metric}")
        line += arguments(self.function, self.known, self.options)
        # Files may be named like a flag or a command.
        line += ["--", *map(os.fsdecode, places)]
        report = _native.run(
            line, **self.held, progress=progress, warn=_LOG.warning, metric=self.metric
        )
        return Report(json.loads(report))

    def run_to(self, output, *places, progress=None):
        """Runs what writes a model, to `output` or to memory."""
        target = self.scratch.path("compressed.onnx") if output is None else output
        report = self.run(*places, target, progress=progress)
        if output is None:
            report["output"]["path"] = ""
            report.model_bytes = self.scratch.take("compressed.onnx")
        return report


def compress(model, output=None, *, progress=None, **options):
    """Compresses a model.

    `model` is a path, bytes or an `onnx.ModelProto`. The result goes to the path `output`; without one it is
    the report's `model_bytes`. `data`, `test` and `train` are a path as for the program, a dict of arrays by
    input name, an array, a tuple (inputs, labels), or an iterable of such batches, like a DataLoader.
    `metric` is a metric's name, `'cmd:PROGRAM ARGS'`, or a function that is given the path of a model and
    returns a number, higher is better. `save_plan` is a path, or True for the report's `plan`. `progress` is
    called with the stage, the steps done, their number or None, and a note.
    """
    work = _Work("compress", None, options)
    plan = work.own["save_plan"]
    if plan is not None and plan is not False:
        place = work.scratch.path("plan.json") if plan is True else os.fsdecode(plan)
        work.line.append(f"--save-plan={place}")
    report = work.run_to(output, work.model(model, "model.onnx"), progress=progress)
    if plan is True:
        with open(work.scratch.path("plan.json"), encoding="utf-8") as file:
            report.plan = file.read()
    return report


def inspect(model, *, data=None, labels=None, **options):
    """Lists every weight of a model: shape, cost, or why it is skipped."""
    work = _Work("inspect", "inspect", {"data": data, "labels": labels, **options})
    return work.run(work.model(model, "model.onnx"))


def evaluate(model, data=None, *, labels=None, reference=None, metric=None, progress=None, **options):
    """The metric of a model on data; `reference` is the original, to compare with where there are no labels."""
    own = {"data": data, "labels": labels, "metric": metric}
    work = _Work("evaluate", "eval", {**own, **options})
    if reference is not None:
        work.line.append(f"--reference={os.fsdecode(work.model(reference, 'reference.onnx'))}")
    return work.run(work.model(model, "model.onnx"), progress=progress)


def check(a, b, *, data=None, labels=None, progress=None, **options):
    """Outputs of two models side by side, in tract: the report's `equal` says whether they agree."""
    work = _Work("check", "check", {"data": data, "labels": labels, **options})
    return work.run(work.model(a, "a.onnx"), work.model(b, "b.onnx"), progress=progress)


def bench(a, b=None, *, progress=None, **options):
    """Latency of two models for one sample in tract, in turns; or with `table` that of one model's layers."""
    work = _Work("bench", "bench", options)
    models = [work.model(a, "a.onnx")] + ([] if b is None else [work.model(b, "b.onnx")])
    return work.run(*models, progress=progress)


def sweep(model, folder, *, ratios, progress=None, **options):
    """Compresses a model at several ratios, with all that does not depend on the ratio done once.

    Files, their plans, `front.json` and `report.html` go to `folder`; what an earlier call has completed there is
    not computed again. The report has a point for every ratio, the knee of the front, and with `max_drop` the
    largest ratio within. `data`, `test`, `train` and `metric` are as for `compress`.
    """
    work = _Work("sweep", "sweep", {"ratios": ratios, **options})
    return work.run(work.model(model, "model.onnx"), folder, progress=progress)


def apply_plan(model, plan, output=None, **options):
    """Replays a plan, as `compress` saved it: a path, the text, or the parsed document."""
    work = _Work("apply_plan", "apply", options)
    if isinstance(plan, Mapping):
        plan = json.dumps(plan)
    if isinstance(plan, str) and plan.lstrip().startswith("{"):
        plan = work.scratch.put("plan.json", plan.encode())
    return work.run_to(output, work.model(model, "model.onnx"), plan)


def _describe(function, command):
    """Gives a function the signature and the help of the command's flags."""
    signature = _inspect.signature(function)
    fixed = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    taken = {p.name for p in fixed} | {"reference"}
    options = [flag for flag in flags(command).values() if flag.keyword not in taken]
    keyword = _inspect.Parameter.KEYWORD_ONLY
    more = [_inspect.Parameter(f.keyword, keyword, default=False if f.is_switch else None) for f in options]
    function.__signature__ = signature.replace(parameters=fixed + more)
    lines = [f"{flag.keyword}: {flag.help}" for flag in options]
    function.__doc__ = "\n".join([function.__doc__.rstrip(), "", "Options:", *lines])


for _function, _command in (
    (compress, None),
    (inspect, "inspect"),
    (evaluate, "eval"),
    (check, "check"),
    (bench, "bench"),
    (sweep, "sweep"),
    (apply_plan, "apply"),
):
    _describe(_function, _command)
