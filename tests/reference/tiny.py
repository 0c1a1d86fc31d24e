"""What the scripts of this folder share: random weights that leave nothing at zero, and writing fixtures."""

import pathlib

import torch
from safetensors.torch import save_file

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"
LARGEST = 300_000


def randomise(network, seed):
    """Every weight is drawn: matrices keep the variance of what passes through, vectors lie near the value they start from."""
    generator = torch.Generator().manual_seed(seed)
    network.eval()
    for name, weight in network.named_parameters():
        weight.requires_grad_(False)
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith("scale_shift_table"):
            weight.copy_(0.3 * noise)
        elif weight.dim() > 1:
            weight.copy_(noise / weight[0].numel() ** 0.5)
        else:
            weight.copy_((1.0 if "norm" in name and name.endswith("weight") else 0.0) + 0.1 * noise)
    return network


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def text_gradient(call, text):
    """The output for `text`, and the gradient of its mean square with respect to `text`."""
    text = text.clone().requires_grad_(True)
    output = call(text)
    output.square().mean().backward()
    return output.detach(), text.grad


def weights_of(network):
    return {f"weights.{name}": value for name, value in network.state_dict().items()}


def write(name, tensors):
    path = FIXTURES / f"{name}.safetensors"
    save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, path)
    size = path.stat().st_size
    assert size < LARGEST, f"{path} has {size} bytes"
    print(f"{path.name}: {len(tensors)} tensors, {size} bytes")
