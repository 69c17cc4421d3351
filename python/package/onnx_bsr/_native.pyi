from collections.abc import Callable
from pathlib import Path

__version__: str

class Scratch:
    def __init__(self) -> None: ...
    def path(self, name: str) -> Path: ...
    def put(self, name: str, bytes: bytes) -> Path: ...
    def take(self, name: str) -> bytes: ...

class Samples:
    def __init__(self) -> None: ...
    def add(
        self, column: int | None, name: str, data_type: int, shape: list[int], data: bytes
    ) -> None: ...

def flags(command: str | None = None) -> list[tuple[str, str, bool, bool]]: ...
def run(
    line: list[str],
    data: Samples | None = None,
    test: Samples | None = None,
    train: Samples | None = None,
    progress: Callable[[str, int, int | None, str], object] | None = None,
    warn: Callable[[str], object] | None = None,
    metric: tuple[str, Callable[[Path], float]] | None = None,
) -> str: ...
