"""Changes of the tiny Flux of pipelines.py by a random LoRA, and the images under it, by diffusers and peft:
tests/fixtures/pipelines/lora.safetensors and lora_images.safetensors, for tests/parity_pipelines.rs.

    python lora.py

Needs requirements.txt and what pipelines.py wrote.
"""

import torch
from diffusers import FluxPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from pipelines import FOLDER, SIDE, image_of
from tiny import draw, write

# Single parts of joined layers, whole layers, both kinds of blocks, and the last modulation, whose halves are swapped.
LAYERS = ["to_q", "to_v", "add_k_proj", "to_out.0", "proj_mlp", "proj_out", "ff.net.2", "norm1.linear", "norm_out.linear"]
RANK, ALPHA, SCALE = 3, 6, 0.8


def main():
    pipeline = FluxPipeline.from_pretrained(FOLDER / "flux", torch_dtype=torch.float32)
    noise = draw(105, 2, (SIDE // 4) ** 2, 64)
    with torch.no_grad():
        plain = image_of(pipeline, noise, guidance_scale=3.5)
        pipeline.transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=LAYERS))
        for i, (name, factor) in enumerate(pipeline.transformer.named_parameters()):
            if ".lora_" in name:
                factor.copy_(draw(300 + i, *factor.shape) / factor.shape[1] ** 0.5)
        FluxPipeline.save_lora_weights(
            FOLDER,
            get_peft_model_state_dict(pipeline.transformer),
            weight_name="lora.safetensors",
            transformer_lora_adapter_metadata=pipeline.transformer.peft_config["default"].to_dict(),
        )
        pipeline = FluxPipeline.from_pretrained(FOLDER / "flux", torch_dtype=torch.float32)
        pipeline.load_lora_weights(FOLDER, weight_name="lora.safetensors")
        changed = image_of(pipeline, noise, guidance_scale=3.5, joint_attention_kwargs={"scale": SCALE})
    difference = (plain["image"] - changed["image"]).abs().mean()
    assert difference > 0.02, f"the LoRA changes the images by {difference} only"
    write("pipelines/lora_images", {"latents": noise} | changed)


if __name__ == "__main__":
    main()
