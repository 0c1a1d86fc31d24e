"""A tiny random Flux under a tiny random ControlNet of several kinds: residuals, the velocity with them, and four steps, by diffusers'
own classes: tests/fixtures/control.safetensors, for tests/parity_control.rs.

    python control.py

Needs requirements.txt. The control image is given as latents: diffusers draws them from the autoencoder's posterior. Weights are stored in half precision and
computed with in single.
"""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxControlNetModel, FluxTransformer2DModel

from tiny import draw, randomise, write

SIZES = dict(
    in_channels=16, attention_head_dim=6, num_attention_heads=2, joint_attention_dim=20, pooled_projection_dim=24, guidance_embeds=True,
    axes_dims_rope=(2, 2, 2),
)  # fmt: skip
TOKENS, SIDE, STEPS, SCALE, MODE, GUIDANCE = 5, 3, 4, 0.7, 2, 3.5


def ids():
    image = torch.zeros(SIDE, SIDE, 3)
    image[..., 1] += torch.arange(SIDE)[:, None]
    image[..., 2] += torch.arange(SIDE)[None]
    return torch.zeros(TOKENS, 3), image.reshape(-1, 3)


def main():
    flux = randomise(FluxTransformer2DModel(num_layers=3, num_single_layers=3, **SIZES), 201)
    control = randomise(FluxControlNetModel(num_layers=2, num_single_layers=2, num_mode=5, **SIZES), 202)
    for network in (flux, control):
        network.half().float()
    text_ids, image_ids = ids()
    latents, image = draw(203, 2, SIDE**2, 16), draw(204, 2, SIDE**2, 16)
    text, pooled = draw(205, 2, TOKENS, 20), draw(206, 2, 24)

    def call(x, time):
        shared = dict(
            hidden_states=x, timestep=torch.full((2,), float(time)), guidance=torch.full((2,), GUIDANCE), pooled_projections=pooled,
            encoder_hidden_states=text, txt_ids=text_ids, img_ids=image_ids, return_dict=False,
        )  # fmt: skip
        double, single = control(
            controlnet_cond=image, controlnet_mode=torch.full((2, 1), MODE), conditioning_scale=SCALE, **shared
        )
        velocity = flux(controlnet_block_samples=double, controlnet_single_block_samples=single, **shared)[0]
        return double, single, velocity, flux(**shared)[0]

    with torch.no_grad():
        double, single, velocity, plain = call(latents, 0.6)
        assert (velocity - plain).norm() > 0.1 * plain.norm(), "the control changes nothing"
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(sigmas=[1 - i / STEPS for i in range(STEPS)])
        x = latents
        for time in scheduler.timesteps:
            x = scheduler.step(call(x, time / 1000)[2], time, x, return_dict=False)[0]
    tensors = {f"flux.{name}": value.half() for name, value in flux.state_dict().items()}
    tensors |= {f"control.{name}": value.half() for name, value in control.state_dict().items()}
    tensors |= {f"double.{i}": value for i, value in enumerate(double)} | {f"single.{i}": value for i, value in enumerate(single)}
    write("control", tensors | dict(latents=latents, image=image, text=text, pooled=pooled, velocity=velocity, generated=x))


if __name__ == "__main__":
    main()
