"""Images of the tiny Flux of pipelines.py under a tiny random ControlNet of several kinds, by diffusers' pipeline:
tests/fixtures/pipelines/controlnet/ and control_images.safetensors, for tests/parity_pipelines.rs.

    python control_image.py

Needs requirements.txt and what pipelines.py wrote. The pipeline draws the control image's latents from the autoencoder's posterior; here
it takes their mean, so that there is one answer.
"""

import shutil

import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline
from diffusers.pipelines.flux import pipeline_flux_controlnet
from PIL import Image

from pipelines import FOLDER, PROMPTS, SIDE, STEPS
from tiny import draw, randomise, write

MODE, SCALE = 2, 0.6


def main():
    net = FluxControlNetModel(
        num_layers=1, num_single_layers=1, attention_head_dim=12, num_attention_heads=2, joint_attention_dim=20, pooled_projection_dim=24,
        guidance_embeds=True, axes_dims_rope=(4, 4, 4), num_mode=5,
    )  # fmt: skip
    folder = FOLDER / "controlnet"
    shutil.rmtree(folder, ignore_errors=True)
    randomise(net, 401).half().save_pretrained(folder)
    net = FluxControlNetModel.from_pretrained(folder, torch_dtype=torch.float32)
    depth = Image.fromarray((draw(402, SIDE, SIDE, 3).abs().clamp(max=2.5) * 100).to(torch.uint8).numpy())
    depth.save(FOLDER / "control.png")
    first = pipeline_flux_controlnet.retrieve_latents
    pipeline_flux_controlnet.retrieve_latents = lambda output, generator=None: first(output, sample_mode="argmax")
    pipeline = FluxControlNetPipeline.from_pretrained(FOLDER / "flux", controlnet=net, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    noise = draw(105, 2, (SIDE // 4) ** 2, 64)
    images = {}
    with torch.no_grad():
        for scale in (0.0, SCALE):
            images[scale] = pipeline(
                prompt=PROMPTS[:2], latents=noise, num_inference_steps=STEPS, height=SIDE, width=SIDE, output_type="pt", control_image=depth,
                control_mode=MODE, controlnet_conditioning_scale=scale, guidance_scale=3.5,
            ).images.permute(0, 2, 3, 1).float()  # fmt: skip
    difference = (images[0.0] - images[SCALE]).abs().mean()
    assert difference > 0.02, f"the control changes the images by {difference} only"
    write("pipelines/control_images", {"latents": noise, "image": images[SCALE]})


if __name__ == "__main__":
    main()
