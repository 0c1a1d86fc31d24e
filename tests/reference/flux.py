"""A tiny random Flux of Black Forest Labs' own classes through their own sampler: tests/fixtures/flux_generation.safetensors.

    python flux.py FLUX

FLUX is a folder with the sources of black-forest-labs/flux@802fb47. Needs requirements.txt.
"""

import sys
import types

import torch

from tiny import draw, randomise, text_gradient, weights_of, write

STEPS = 4


def main(folder):
    sys.path.insert(0, f"{folder}/src")
    # The sampler's module imports downloads and encoders of images and text that it does not need here.
    unused = {
        "flux.modules.conditioner": ["HFEmbedder"],
        "flux.modules.image_embedders": ["CannyImageEncoder", "DepthImageEncoder", "ReduxImageEncoder"],
        "flux.util": ["PREFERED_KONTEXT_RESOLUTIONS"],
    }
    for name, members in unused.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update({member: type(member, (), {}) for member in members})
    from flux.model import Flux, FluxParams
    from flux.sampling import denoise, get_schedule

    params = FluxParams(
        in_channels=64, out_channels=64, vec_in_dim=12, context_in_dim=20, hidden_size=24, mlp_ratio=4.0, num_heads=2, depth=1,
        depth_single_blocks=1, axes_dim=[4, 4, 4], theta=10_000, qkv_bias=True, guidance_embed=True,
    )  # fmt: skip
    network = randomise(Flux(params), 61)
    b, side, l = 2, 4, 5
    latents, text, pooled = draw(62, b, side * side, 64), draw(63, b, l, 20), draw(64, b, 12)
    places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).reshape(-1, 2).float()
    image_ids = torch.cat([torch.zeros(side * side, 1), places], 1)[None].repeat(b, 1, 1)
    text_ids = torch.zeros(b, l, 3)
    time, guidance = torch.tensor([0.3, 0.85]), torch.tensor([2.0, 4.5])

    def call(text):
        return network(img=latents, img_ids=image_ids, txt=text, txt_ids=text_ids, timesteps=time, y=pooled, guidance=guidance)

    output, gradient = text_gradient(call, text)
    times = get_schedule(STEPS, side * side, shift=True)
    with torch.no_grad():
        steps = [denoise(network, latents, image_ids, text, text_ids, pooled, times[: i + 2], guidance=3.5) for i in range(STEPS)]
    write(
        "flux_generation",
        weights_of(network)
        | {
            "input.latents": latents,
            "input.text": text,
            "input.pooled": pooled,
            "input.time": time,
            "input.guidance": guidance,
            "output": output,
            "text_gradient": gradient,
            "generation.times": torch.tensor(times),
            "generation.guidance": torch.tensor([3.5]),
            "generation.steps": torch.stack(steps),
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
