"""Makes datasets/mnist/mnist_first_5000.npz from the four official files.

    python datasets/prepare_mnist.py DIRECTORY

DIRECTORY holds train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and
t10k-labels-idx1-ubyte.gz, as https://ossci-datasets.s3.amazonaws.com/mnist/ has them. The first 4,000 training and the
first 1,000 test images are taken, in the official order: enough for an example, no benchmark. The last line reads

    4,000 training and 1,000 test images
"""

import gzip
import io
import sys
from pathlib import Path

import numpy as np

NUM = {"train": ("train", 4000), "test": ("t10k", 1000)}
OUT = Path(__file__).parent / "mnist" / "mnist_first_5000.npz"


def read_idx(path: Path) -> np.ndarray:
    """Returns the bytes of an idx file as an array: two zero bytes, a type, the number of axes, their lengths, data."""
    raw = gzip.decompress(path.read_bytes())
    num_axes = raw[3]
    shape = np.frombuffer(raw, ">i4", num_axes, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * num_axes).reshape(shape)


def main() -> None:
    folder = Path(sys.argv[1])
    arrays = {}
    for split, (prefix, count) in NUM.items():
        arrays[f"{split}_images"] = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")[:count]
        arrays[f"{split}_labels"] = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")[:count]
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_bytes(stream.getvalue())
    print(f"{NUM['train'][1]:,} training and {NUM['test'][1]:,} test images")


if __name__ == "__main__":
    main()
