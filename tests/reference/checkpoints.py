"""Names and shapes of the tensors of published checkpoints, from the reference classes at full size, without their weights:
the lists in tests/fixtures/checkpoints, which tests/checkpoints.rs compares our constructors with.

    python checkpoints.py FLUX SD3 DISTILLT5

FLUX, SD3 and DISTILLT5 are folders with the sources of black-forest-labs/flux@802fb47, Stability-AI/sd3-ref@883b836 and
LifuWang-66/DistillT5@ce634e8. Sizes are those of
the published `config.json`s. A line is a name and a shape; types are left out, because loading converts them.
"""

import sys

import torch
from diffusers import AutoencoderKL, PixArtTransformer2DModel, SD3Transformer2DModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tiny import FIXTURES


def write(name, source, state):
    lines = [f"# {source}"] + [f"{key} {'x'.join(map(str, value.shape))}" for key, value in sorted(state.items())]
    path = FIXTURES / "checkpoints" / f"{name}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    print(f"{path.name}: {len(lines) - 1} tensors")


def diffusers():
    config = dict(
        sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=24, attention_head_dim=64, num_attention_heads=24,
        joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048, pos_embed_max_size=192,
    )  # fmt: skip
    write("sd3-medium", "SD3Transformer2DModel, diffusers 0.42.1", SD3Transformer2DModel(**config).state_dict())
    config = dict(
        sample_size=64, patch_size=2, in_channels=4, out_channels=8, num_layers=28, attention_head_dim=72, num_attention_heads=16,
        cross_attention_dim=1152, caption_channels=4096, attention_bias=True, norm_type="ada_norm_single",
        norm_elementwise_affine=False, norm_eps=1e-6, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
    )  # fmt: skip
    write("pixart-xl-2-512", "PixArtTransformer2DModel, diffusers 0.42.1", PixArtTransformer2DModel(**config).state_dict())
    sizes = dict(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        norm_num_groups=32,
    )
    plain = dict(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)
    for name, config in {"vae-flux-dev": plain, "vae-sd3": plain, "vae-sd1": dict(latent_channels=4)}.items():
        write(name, "AutoencoderKL, diffusers 0.42.1", AutoencoderKL(**sizes, **config).state_dict())


def transformers():
    # width, feed-forward, layers, heads
    sizes = {"small": (512, 1024, 8, 6), "base": (768, 2048, 12, 12), "large": (1024, 2816, 24, 16), "xl": (2048, 5120, 24, 32), "xxl": (4096, 10240, 24, 64)}  # fmt: skip
    for name, (width, wide, layers, heads) in sizes.items():
        config = T5Config(
            vocab_size=32128, d_model=width, d_kv=64, d_ff=wide, num_layers=layers, num_heads=heads, feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )  # fmt: skip
        state = T5EncoderModel(config).state_dict()
        # The same tensor as `shared.weight`; files of encoders hold it once.
        state.pop("encoder.embed_tokens.weight", None)
        write(f"t5-v1.1-{name}", "T5EncoderModel, transformers 5.23.0", state)
    config = CLIPConfig(
        projection_dim=768,
        text_config=dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768),
        vision_config=dict(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14, projection_dim=768
        ),
    )
    write("clip-vit-large-patch14", "CLIPModel, transformers 5.23.0", CLIPModel(config).state_dict())
    # The text halves that Stable Diffusion 3 carries: width, feed-forward, layers, heads.
    sizes = {"large": (768, 3072, 12, 12), "bigg": (1280, 5120, 32, 20)}
    for name, (width, wide, layers, heads) in sizes.items():
        config = CLIPTextConfig(
            hidden_size=width, intermediate_size=wide, num_hidden_layers=layers, num_attention_heads=heads, projection_dim=width
        )
        write(f"clip-{name}-text", "CLIPTextModelWithProjection, transformers 5.23.0", CLIPTextModelWithProjection(config).state_dict())


def black_forest_labs(folder):
    sys.path.insert(0, f"{folder}/src")
    from flux.model import Flux, FluxParams
    from flux.modules.autoencoder import AutoEncoder, AutoEncoderParams

    for name, guidance in {"flux-dev": True, "flux-schnell": False}.items():
        params = FluxParams(
            in_channels=64, out_channels=64, vec_in_dim=768, context_in_dim=4096, hidden_size=3072, mlp_ratio=4.0, num_heads=24, depth=19,
            depth_single_blocks=38, axes_dim=[16, 56, 56], theta=10_000, qkv_bias=True, guidance_embed=guidance,
        )  # fmt: skip
        write(name, "flux/model.py, black-forest-labs/flux@802fb47", Flux(params).state_dict())
    params = AutoEncoderParams(
        resolution=256, in_channels=3, ch=128, out_ch=3, ch_mult=[1, 2, 4, 4], num_res_blocks=2, z_channels=16, scale_factor=0.3611,
        shift_factor=0.1159,
    )  # fmt: skip
    write("vae-flux-dev-single-file", "flux/modules/autoencoder.py, black-forest-labs/flux@802fb47", AutoEncoder(params).state_dict())


def stability(folder):
    sys.path.insert(0, folder)
    from mmdit import MMDiT

    embedder = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}}
    network = MMDiT(
        input_size=None, pos_embed_scaling_factor=None, pos_embed_offset=None, pos_embed_max_size=192, patch_size=2, in_channels=16, depth=24,
        num_patches=192 * 192, adm_in_channels=2048, context_embedder_config=embedder,
    )  # fmt: skip
    state = {f"model.diffusion_model.{name}": value for name, value in network.state_dict().items()}
    write("sd3-medium-single-file", "mmdit.py, Stability-AI/sd3-ref@883b836", state)


def distillt5(folder):
    sys.path.insert(0, folder)
    from models.T5_encoder import T5EncoderWithProjection, T5ProjectionConfig

    config = T5ProjectionConfig(
        vocab_size=32128, d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_heads=12, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, project_in_dim=768, project_out_dim=4096,
    )  # fmt: skip
    state = T5EncoderWithProjection(config).state_dict()
    # The same tensor as `encoder.shared.weight`.
    state.pop("encoder.encoder.embed_tokens.weight", None)
    write("distillt5", "T5EncoderWithProjection, LifuWang-66/DistillT5@ce634e8", state)


if __name__ == "__main__":
    flux, sd3, distill = sys.argv[1:]
    with torch.device("meta"):
        diffusers()
        transformers()
        black_forest_labs(flux)
        stability(sd3)
        distillt5(distill)
