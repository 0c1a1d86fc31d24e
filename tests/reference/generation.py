"""Tiny random networks of diffusers' own classes with inputs, outputs, text gradients, whole trajectories and images: the
fixtures of tests/parity_reference.rs.

    python generation.py            writes all of them
    python generation.py sd3 ...    writes the named ones

Needs requirements.txt. Trajectories are those of the pipelines' own `__call__`, with text embeddings given.
"""

import sys

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from tiny import FIXTURES, draw, randomise, text_gradient, weights_of, write

STEPS = 4
# The noise schedule of PixArt's published `scheduler_config.json`.
PIXART_NOISE = dict(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", num_train_timesteps=1000)

AUTOENCODERS = {
    "flux": dict(latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
    "sd3": dict(latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
    "sd1": dict(latent_channels=4, scaling_factor=0.18215),
}


def autoencoder(name, seed, latent_channels=None):
    config = dict(AUTOENCODERS[name])
    config["latent_channels"] = latent_channels or config["latent_channels"]
    network = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=16,
        **config,
    )
    return randomise(network, seed)


def steps_of(pipeline, **arguments):
    """Latents after every step, from the pipeline itself."""
    pipeline.set_progress_bar_config(disable=True)
    seen = []
    original = pipeline.scheduler.step

    def step(*positional, **named):
        result = original(*positional, **named)
        seen.append(result[0].clone())
        return result

    pipeline.scheduler.step = step
    final = pipeline(num_inference_steps=STEPS, output_type="latent", return_dict=False, **arguments)[0]
    assert torch.equal(final, seen[-1]) and len(seen) == STEPS
    return torch.stack(seen)


def sd3():
    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=3,
        joint_attention_dim=20,
        caption_projection_dim=24,
        pooled_projection_dim=12,
        pos_embed_max_size=6,
    )
    randomise(network, 1)
    latents, text, pooled = draw(2, 2, 4, 8, 8), draw(3, 2, 5, 20), draw(4, 2, 12)
    time = torch.tensor([300.0, 850.0])

    def call(text):
        return network(latents, encoder_hidden_states=text, pooled_projections=pooled, timestep=time, return_dict=False)[0]

    output, gradient = text_gradient(call, text)
    tensors = weights_of(network) | {
        "input.latents": latents,
        "input.text": text,
        "input.pooled": pooled,
        "input.time": time / 1000,
        "output": output,
        "text_gradient": gradient,
    }
    # Latents without a shift of their own: the trajectory ends before the autoencoder.
    pipeline = StableDiffusion3Pipeline(
        network,
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        autoencoder("sd3", 5, 4),
        *[None] * 6,
    )
    noise, negative, negative_pooled = draw(6, 2, 4, 8, 8), draw(7, 2, 5, 20), draw(8, 2, 12)
    with torch.no_grad():
        tensors |= {
            "generation.noise": noise,
            "generation.negative_text": negative,
            "generation.negative_pooled": negative_pooled,
            "generation.guidance": torch.tensor([5.0]),
            "generation.steps": steps_of(
                pipeline,
                prompt_embeds=text,
                negative_prompt_embeds=negative,
                pooled_prompt_embeds=pooled,
                negative_pooled_prompt_embeds=negative_pooled,
                latents=noise,
                guidance_scale=5.0,
                height=16,
                width=16,
            ),
        }
    write("sd3", tensors)


def pixart():
    torch.manual_seed(0)
    network = PixArtTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=24,
        sample_size=16,
        patch_size=2,
        caption_channels=20,
        use_additional_conditions=False,
    )
    randomise(network, 11)
    # A grid smaller than the one of `sample_size`: positions are stretched over it.
    latents, text = draw(12, 2, 4, 8, 8), draw(13, 2, 7, 20)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0, 0]])
    time = torch.tensor([250, 999])

    def call(text):
        return network(latents, encoder_hidden_states=text, timestep=time, encoder_attention_mask=mask, return_dict=False)[0]

    # The variance is no part of any loss.
    _, gradient = text_gradient(lambda text: call(text)[:, :4], text)
    tensors = weights_of(network) | {
        "input.latents": latents,
        "input.text": text,
        "input.mask": mask.float(),
        "input.time": time / 1000,
        "output": call(text),
        "text_gradient": gradient,
    }
    noise, negative = draw(16, 2, 4, 16, 16), draw(17, 2, 7, 20)
    negative_mask = torch.tensor([[1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]])
    tensors |= {
        "generation.noise": noise,
        "generation.negative_text": negative,
        "generation.negative_mask": negative_mask.float(),
        "generation.guidance": torch.tensor([4.5]),
    }
    schedulers = {
        "dpm_solver": DPMSolverMultistepScheduler(**PIXART_NOISE),
        "ddim": DDIMScheduler(**PIXART_NOISE, clip_sample=False, timestep_spacing="leading"),
    }
    with torch.no_grad():
        for name, scheduler in schedulers.items():
            pipeline = PixArtAlphaPipeline(None, None, autoencoder("sd1", 15), network, scheduler)
            tensors[f"generation.{name}"] = steps_of(
                pipeline,
                prompt=None,
                negative_prompt=None,
                prompt_embeds=text,
                prompt_attention_mask=mask,
                negative_prompt_embeds=negative,
                negative_prompt_attention_mask=negative_mask,
                latents=noise,
                guidance_scale=4.5,
                height=32,
                width=32,
                use_resolution_binning=False,
            )
    write("pixart", tensors)


def older_names(state):
    """The names under which SD-1's autoencoder is published."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in state.items():
        for new, before in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        renamed[name] = value
    return renamed


def autoencoders():
    for number, name in enumerate(AUTOENCODERS):
        network = autoencoder(name, 20 + number)
        scale, shift = network.config.scaling_factor, network.config.shift_factor or 0.0
        images, latents = draw(30, 2, 3, 16, 12).clamp(-1, 1), draw(31, 2, network.config.latent_channels, 8, 6)
        with torch.no_grad():
            mean = network.encode(images).latent_dist.mean
            content = {
                "images": images,
                "encoded": (mean - shift) * scale,
                "latents": latents,
                "decoded": network.decode(latents / scale + shift, return_dict=False)[0],
            }
        weights = weights_of(network)
        write(f"vae_{name}", (older_names(weights) if name == "sd1" else weights) | content)


def follow(scheduler, latents, predictions, set_timesteps):
    """Latents after every step under given predictions; the last prediction serves for all steps beyond it."""
    set_timesteps(scheduler)
    after = []
    for i, t in enumerate(scheduler.timesteps):
        latents = scheduler.step(predictions[i % len(predictions)], t, latents, return_dict=False)[0]
        after.append(latents)
    return {"timesteps": scheduler.timesteps.float(), "after": torch.stack(after)}


def schedulers():
    latents, predictions = draw(41, 2, 4, 4, 4), draw(42, STEPS, 2, 4, 4, 4)
    tensors = {"latents": latents, "predictions": predictions}

    def keep(name, scheduler, set_timesteps):
        found = follow(scheduler, latents, predictions, set_timesteps)
        if hasattr(scheduler, "sigmas"):
            found["sigmas"] = scheduler.sigmas
        tensors.update({f"{name}.{key}": value for key, value in found.items()})

    # As the pipelines call it: Flux hands over even sigmas and mu, SD3 the number of steps.
    for steps in (4, 20):
        even = [1 - i / steps for i in range(steps)]
        mu = 0.5 + (1.15 - 0.5) / (4096 - 256) * (1024 - 256)
        keep(
            f"flux_{steps}",
            FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15),
            lambda scheduler: scheduler.set_timesteps(sigmas=even, mu=mu),
        )
        keep(f"schnell_{steps}", FlowMatchEulerDiscreteScheduler(), lambda scheduler: scheduler.set_timesteps(sigmas=even))
        keep(f"sd3_{steps}", FlowMatchEulerDiscreteScheduler(shift=3.0), lambda scheduler: scheduler.set_timesteps(steps))
        keep(f"dpm_solver_{steps}", DPMSolverMultistepScheduler(**PIXART_NOISE), lambda scheduler: scheduler.set_timesteps(steps))
        keep(
            f"ddim_{steps}",
            DDIMScheduler(**PIXART_NOISE, clip_sample=False, timestep_spacing="leading"),
            lambda scheduler: scheduler.set_timesteps(steps),
        )
    write("schedulers", tensors)


def text_encoders():
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=32, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    )
    t5 = randomise(T5EncoderModel(config), 51)
    # Long enough for the logarithmic buckets of distances.
    ids = torch.randint(2, 32, (2, 40), generator=torch.Generator().manual_seed(52))
    ids[0, 30:], ids[1, 11:] = 0, 0
    ids[0, 29], ids[1, 10] = 1, 1
    state = {name: value for name, value in weights_of(t5).items() if "embed_tokens" not in name}
    with torch.no_grad():
        write(
            "t5",
            state
            | {
                "ids": ids.to(torch.uint32),
                "embedding": t5(input_ids=ids).last_hidden_state,
                "masked": t5(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state,
            },
        )
    sizes = dict(num_hidden_layers=2, projection_dim=20)
    text = dict(
        vocab_size=30, hidden_size=24, intermediate_size=96, num_attention_heads=3, max_position_embeddings=9, bos_token_id=28,
        eos_token_id=29, pad_token_id=29, **sizes,
    )  # fmt: skip
    vision = dict(hidden_size=32, intermediate_size=128, num_attention_heads=4, image_size=16, patch_size=4, **sizes)
    clip = randomise(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)), 53)
    # What Flux's pipeline loads: the text half alone, whose `pooler_output` it takes.
    half = CLIPTextModel(CLIPTextConfig(**text)).eval()
    halves = {name: value for name, value in clip.state_dict().items() if name.startswith("text_model.")}
    names = half.state_dict().keys()
    half.load_state_dict({name: halves[name if name in halves else f"text_model.{name}"] for name in names})
    ids = torch.tensor([[28, 5, 7, 29, 29, 29, 29, 29, 29], [28, 3, 4, 5, 6, 7, 8, 9, 29]])
    images = draw(54, 2, 3, 16, 16).clamp(-1, 1)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        found = clip(input_ids=ids, pixel_values=(images / 2 + 0.5 - mean) / std)
        write(
            "clip",
            weights_of(clip)
            | {
                "ids": ids.to(torch.uint32),
                "pooled": half(input_ids=ids).pooler_output,
                "text_embeds": found.text_embeds,
                "images": images,
                "image_embeds": found.image_embeds,
            },
        )


PROMPTS = ["a red cube left of a blue sphere", "three green cones", "", "a sign that says \"OPEN\"", " ".join(["two small yellow cubes"] * 9)]


def token_ids():
    """Ids of the miniature world's tokenizer, cut and padded to 24 tokens as T5's tokenizer does."""
    import json

    from transformers import PreTrainedTokenizerFast

    file = FIXTURES.parent.parent / "pipelines" / "mini" / "tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), pad_token="<pad>", eos_token="</s>")
    ids = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=24)["input_ids"]
    (FIXTURES / "token_ids.json").write_text(json.dumps({"length": 24, "prompts": PROMPTS, "ids": ids}) + "\n")


ALL = {"token_ids": token_ids, "sd3": sd3, "pixart": pixart, "autoencoders": autoencoders, "schedulers": schedulers, "text_encoders": text_encoders}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or ALL:
        ALL[chosen]()
