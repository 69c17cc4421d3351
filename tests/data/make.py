"""Writes the NumPy fixtures of this folder. Run with numpy 2: python make.py"""

import os

import numpy as np

os.chdir(os.path.dirname(os.path.abspath(__file__)))
ramp = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
images = np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3) * 7

np.savez("stored.npz", x=images, labels=np.array([2, 0, 1]))
np.savez_compressed("compressed.npz", x=images, labels=np.array([2, 0, 1], dtype=np.int32))
np.savez("two-inputs.npz", ids=np.array([[1, 2], [3, 4]]), mask=np.ones((2, 2), dtype=bool), z=ramp)
np.save("fortran.npy", np.asfortranarray(ramp))
np.save("big-endian.npy", ramp.astype(">f4"))
np.save("half.npy", ramp.astype(np.float16))
np.save("object.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
np.save("text.npy", np.array(["a", "b"]))
np.save("structured.npy", np.zeros(2, dtype=[("a", "<i4"), ("b", "<f4")]))
np.save("complex.npy", np.zeros((2, 2), dtype=np.complex64))
