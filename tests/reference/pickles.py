"""Tiny files of `torch.save` for tests/pickles.rs, the same tensors as safetensors, and a pickle that would call a function."""

import os

import torch
from torch import nn

from tiny import FIXTURES, draw, write


class Calls:
    """Asks whoever unpickles it to print the folder it is in: harmless, and as refusable as anything else."""

    def __reduce__(self):
        return os.getcwd, ()


if __name__ == "__main__":
    base = draw(1, 6, 4)
    tensors = {
        "layer.weight": nn.Parameter(draw(2, 3, 5)),
        "layer.bias": draw(3, 3).half(),
        "norm": draw(4, 7).bfloat16(),
        "double": draw(5, 2, 2).double(),
        "ids": torch.tensor([[3, -1], [2**40, 0]]),
        "bytes": torch.tensor([0, 255, 7], dtype=torch.uint8),
        # Views on one storage: rows, a transposed part, every second column.
        "rows": base[2:4],
        "turned": base[1:4].t(),
        "sparse": base[:, ::2],
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 4),
    }
    torch.save(tensors, FIXTURES / "pickle.pth")
    torch.save({"epoch": 3, "state_dict": nn.Linear(2, 3).state_dict()}, FIXTURES / "pickle_nested.pth")
    torch.save({"layer.weight": draw(2, 3, 5), "note": Calls()}, FIXTURES / "pickle_code.pth")
    torch.save(tensors, FIXTURES / "pickle_old.pth", _use_new_zipfile_serialization=False)
    write("pickle", tensors)
