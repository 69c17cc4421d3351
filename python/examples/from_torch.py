"""From a network in PyTorch to a smaller file in ONNX Runtime: train, export, compress, run.

    pip install torch onnx onnxruntime ./python
    python python/examples/from_torch.py fixtures/mnist_train.npz fixtures/mnist_heldout.npz digits.onnx small.onnx
"""

import argparse

import numpy as np
import onnx_bsr
import onnxruntime
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def load(path):
    """Images as the network takes them, and labels."""
    arrays = np.load(path)
    images = torch.from_numpy(arrays["input"]).float() / 255
    return TensorDataset(images, torch.from_numpy(arrays["labels"]))


def network():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def fit(model, data, epochs):
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for epoch in range(epochs):
        for images, labels in DataLoader(data, 64, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        print(f"epoch {epoch + 1} of {epochs}")
    return model.eval()


def accuracy(path, data):
    """Percent that ONNX Runtime gets right."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images, labels = data.tensors
    scores = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    return 100 * np.mean(scores.argmax(1) == labels.numpy())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("train", "test", "exported", "output"):
        parser.add_argument(name)
    parser.add_argument("--ratio", type=float, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    train, test = load(args.train), load(args.test)
    model = fit(network(), train, args.epochs)

    # The batch axis is left open; `dynamo=False` is the exporter that needs no further package.
    torch.onnx.export(
        model, (torch.zeros(1, 1, 28, 28),), args.exported, input_names=["image"], output_names=["scores"],
        dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}}, dynamo=False,
    )

    # No shuffling: the same data give the same file.
    report = onnx_bsr.compress(
        args.exported, args.output, ratio=args.ratio, data=DataLoader(train, 256), test=DataLoader(test, 256),
        progress=lambda stage, done, total, note: done or print(stage),
    )
    metric = report["metric"]
    print(f"{metric['name']} in tract: {metric['original']:.2f} -> {metric['written']:.2f}")
    print(f"in ONNX Runtime: {accuracy(args.exported, test):.2f} -> {accuracy(args.output, test):.2f}")
    print(f"{report['model']['bytes']} -> {report['output']['bytes']} bytes")


if __name__ == "__main__":
    main()
