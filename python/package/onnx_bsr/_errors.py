"""What can go wrong."""

import re


def _in_python(text):
    """The program's `--max-drop` is `max_drop` here."""
    return re.sub(r"--([a-z][a-z-]*[a-z])", lambda match: match[1].replace("-", "_"), text)


class OnnxBsrError(Exception):
    """Base of this package's errors; `hint` says what to do, or is None."""

    def __init__(self, message, hint=None):
        self.reason = _in_python(message)
        self.hint = None if hint is None else _in_python(hint)
        super().__init__(self.reason if hint is None else f"{self.reason}\nhint: {self.hint}")

    def __reduce__(self):
        return type(self), (self.reason, self.hint), self.__dict__


class FileError(OnnxBsrError, OSError):
    """A file can't be read or written, or would be lost."""


class ModelError(OnnxBsrError, ValueError):
    """A model is damaged, or uses what can't be handled."""


class DataError(OnnxBsrError, ValueError):
    """Data are damaged, or don't fit the model."""


class OptionError(OnnxBsrError, ValueError):
    """An option has a value that can't be used."""


class RatioError(OptionError):
    """The ratio is out of reach; `largest` is the largest that isn't."""

    largest = None


class PlanError(OnnxBsrError, ValueError):
    """A plan can't be read or is for another model."""


class TractError(OnnxBsrError, RuntimeError):
    """tract refused a model or failed to run it."""


class MetricError(OnnxBsrError, RuntimeError):
    """A metric of files gave no number."""


class TrainingError(OnnxBsrError, RuntimeError):
    """Training failed."""
