"""Judges sentence encoders by human similarities of sentence pairs.

    python benches/sick_similarity.py TOKENS.npz SIMILARITY.npy MODEL.onnx.. [--output NAME]

The tokens are an .npz keyed by input name whose row i and row i + n/2 are a pair; the similarities have one number a pair. Prints, for
every model run in ONNX Runtime, Spearman's correlation between the cosine of the pair's vectors and the similarity, and the
mean cosine with the first model's vectors.
"""

import argparse

import numpy as np
import onnxruntime
from scipy.stats import spearmanr


def vectors(model, tokens, output, batch=50):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    output = output or max(session.get_outputs(), key=lambda o: o.name == "sentence_embedding").name
    rows = len(next(iter(tokens.values())))
    feeds = ({n: tokens[n][at : at + batch] for n in names} for at in range(0, rows, batch))
    return np.concatenate([session.run([output], feed)[0] for feed in feeds])


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokens")
    parser.add_argument("similarity")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--output", help="the output with the sentence's vector")
    args = parser.parse_args()
    tokens = dict(np.load(args.tokens))
    similarity = np.load(args.similarity)
    reference = None
    print("| model | Spearman | cosine with the first |\n|---|---|---|")
    for model in args.models:
        found = unit(vectors(model, tokens, args.output))
        reference = found if reference is None else reference
        half = len(found) // 2
        cosine = (found[:half] * found[half:]).sum(1)
        rho = spearmanr(cosine, similarity[:half]).statistic
        print(f"| {model.rsplit('/', 1)[-1]} | {rho:.4f} | {(found * reference).sum(1).mean():.5f} |")


if __name__ == "__main__":
    main()
