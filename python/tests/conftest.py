import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"

# Short runs: few samples, few networks scored.
SHORT = {"calibration_samples": 100, "search_samples": 60, "search": "start"}


@pytest.fixture(scope="session")
def model():
    return FIXTURES / "mnist_conv.onnx"


@pytest.fixture(scope="session")
def train():
    """As many digits as a short run needs."""
    return {name: array[:600] for name, array in np.load(FIXTURES / "mnist_train.npz").items()}


@pytest.fixture(scope="session")
def heldout():
    return {name: array[:400] for name, array in np.load(FIXTURES / "mnist_heldout.npz").items()}


@pytest.fixture(scope="session")
def program():
    """The command line's program."""
    named = os.environ.get("ONNX_BSR_PROGRAM")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = Path(named) if named else target / "release" / "onnx-bsr"
    if not named and not path.is_file():
        pytest.skip("no program: cargo build --release")
    return path
