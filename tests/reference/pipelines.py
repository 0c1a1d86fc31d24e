"""Tiny random pipelines in the folders that diffusers' `save_pretrained` writes, with token ids, text embeddings, initial noise and
the images of four steps: tests/fixtures/pipelines, for tests/parity_pipelines.rs.

    python pipelines.py            writes all of them
    python pipelines.py sd3 ...    writes the named ones

Needs requirements.txt. Weights are stored in half precision and the images made in single from the folders as they lie there. The
three folders differ in what published ones differ in: tokenizers as `tokenizer.json`, as `vocab.json` with `merges.txt`, as
`spiece.model`; weights in one file and in shards.
"""

import io
import json
import pathlib
import shutil
import sys

import sentencepiece
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tiny import FIXTURES, draw, randomise, write

FOLDER = FIXTURES / "pipelines"
STEPS, SIDE = 4, 16
PROMPTS = [
    "A red cube left of a blue sphere",
    "  three GREEN cones,\tand 12 small ones it's said",
    "",
    'a sign that says "ＯＰＥＮ" near a café – zzz',
    " ".join(["two small yellow cubes"] * 40),
]
# What the tokenizers are trained on.
TEXT = [
    f"{count} {size} {colour} {thing} {place} a {other} {thing} near a cafe"
    for count in ("a", "two", "three")
    for size in ("small", "large")
    for colour, other in (("red", "blue"), ("green", "yellow"), ("blue", "red"))
    for thing in ("cube", "spheres", "cones", "sign that says open")
    for place in ("left of", "above", "next to")
]


def pieces():
    """A sentencepiece model of T5's kind, whose normaliser knows a few letters."""
    rules = FOLDER / "rules.tsv"
    rules.write_text("".join(f"{ord('Ａ') + i:X}\t{ord('A') + i:X}\n" for i in range(26)) + "9\t20\n2013\t2D\n")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 20), model_writer=model, vocab_size=90, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        character_coverage=1.0, normalization_rule_tsv=str(rules), hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    rules.unlink()
    path = FOLDER / "spiece.model"
    path.write_bytes(model.getvalue())
    tokenizer = T5Tokenizer.from_pretrained(FOLDER, model_max_length=512)
    spiece = path.read_bytes()
    path.unlink()
    return tokenizer, spiece


def letters(pad="<|endoftext|>"):
    """A byte-level vocabulary of CLIP's kind, and its `vocab.json` and `merges.txt`."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    split = pre_tokenizers.Whitespace()
    words = [word for line in TEXT for word, _ in split.pre_tokenize_str(line)]
    trainer = trainers.BpeTrainer(vocab_size=60, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(words, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in trained["merges"]]
    ordered = sorted(alphabet, key=lambda letter: (letter != "!", letter))
    names = ordered + [f"{letter}</w>" for letter in ordered] + ["".join(merge) for merge in merges]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys(names))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    files = {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges),
    }
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=77), files


def replace(folder, files):
    """Puts `files` in the place of a saved tokenizer's `tokenizer.json`."""
    (folder / "tokenizer.json").unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def autoencoder(seed, channels, **config):
    network = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 16),
        layers_per_block=1, norm_num_groups=4, sample_size=SIDE, latent_channels=channels, **config,
    )  # fmt: skip
    return randomise(network, seed)


def t5(seed, width, vocabulary):
    config = T5Config(
        vocab_size=vocabulary, d_model=width, d_kv=8, d_ff=40, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )  # fmt: skip
    return randomise(T5EncoderModel(config), seed)


def clip(cls, seed, tokenizer, **sizes):
    # 2 is what CLIP's first configuration says, whatever the vocabulary; networks then look for the largest id.
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=77, bos_token_id=0, pad_token_id=1, eos_token_id=2, **sizes
    )
    return randomise(cls(config), seed)


def save(name, pipeline, **arguments):
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(folder, **arguments)
    return folder


def image_of(pipeline, noise, **arguments):
    """The pixels of the images in [0, 1], [B, H, W, 3], and the latents they were decoded from."""
    pipeline.set_progress_bar_config(disable=True)
    latents = []

    def keep(_, i, t, values):
        latents.append(values["latents"].clone())
        return values

    # The first two prompts.
    arguments = dict(prompt=PROMPTS[:2], latents=noise, num_inference_steps=STEPS, height=SIDE, width=SIDE, output_type="pt") | arguments
    if isinstance(pipeline, PixArtAlphaPipeline):
        arguments |= dict(callback=lambda i, t, values: latents.append(values.clone()))
    else:
        arguments |= dict(callback_on_step_end=keep)
    images = pipeline(**arguments).images
    return {"image": images.permute(0, 2, 3, 1).float(), "final": latents[-1]}


def ids_of(tokenizer, length, prompts=PROMPTS):
    found = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return found.input_ids.to(torch.uint32)


def flux():
    (words, _), (pairs, files) = pieces(), letters()
    transformer = FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, attention_head_dim=12, num_attention_heads=2, joint_attention_dim=20, pooled_projection_dim=24,
        guidance_embeds=True, axes_dims_rope=(4, 4, 4),
    )  # fmt: skip
    folder = save(
        "flux",
        FluxPipeline(
            FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15),
            autoencoder(102, 16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
            clip(CLIPTextModel, 103, pairs, hidden_size=24, intermediate_size=96, num_attention_heads=3, num_hidden_layers=2),
            pairs,
            t5(104, 20, len(words)),
            words,
            randomise(transformer, 101),
        ),
    )
    replace(folder / "tokenizer", files)
    pipeline = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    noise = draw(105, 2, (SIDE // 4) ** 2, 64)
    with torch.no_grad():
        text, pooled, _ = pipeline.encode_prompt(PROMPTS, None)
        tensors = image_of(pipeline, noise, guidance_scale=3.5)
    tensors |= {"latents": noise, "text": text[:, :40], "pooled": pooled}
    tensors |= {"ids.clip": ids_of(pipeline.tokenizer, 77), "ids.t5": ids_of(pipeline.tokenizer_2, 512)}
    write("pipelines/flux", tensors)


def sd3():
    (words, _), (pairs, _), (bangs, files) = pieces(), letters(), letters("!")
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=3,
        joint_attention_dim=60, caption_projection_dim=24, pooled_projection_dim=56, pos_embed_max_size=6,
    )  # fmt: skip
    first = dict(hidden_size=24, intermediate_size=96, num_attention_heads=3, num_hidden_layers=2, projection_dim=24)
    second = dict(hidden_size=32, intermediate_size=128, num_attention_heads=4, num_hidden_layers=3, projection_dim=32, hidden_act="gelu")
    folder = save(
        "sd3",
        StableDiffusion3Pipeline(
            randomise(transformer, 111),
            FlowMatchEulerDiscreteScheduler(shift=3.0),
            autoencoder(112, 4, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
            clip(CLIPTextModelWithProjection, 113, pairs, **first),
            pairs,
            clip(CLIPTextModelWithProjection, 114, bangs, **second),
            bangs,
            t5(115, 60, len(words)),
            words,
        ),
        max_shard_size="60KB",
    )
    replace(folder / "tokenizer_2", files)
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, torch_dtype=torch.float32)
    noise = draw(116, 2, 4, SIDE // 2, SIDE // 2)
    with torch.no_grad():
        text, _, pooled, _ = pipeline.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False)
        tensors = image_of(pipeline, noise, guidance_scale=5.0)
    # CLIP's 77 tokens and the first of T5's.
    tensors |= {"latents": noise, "text": text[:, :117], "pooled": pooled}
    tensors |= {"ids.clip": ids_of(pipeline.tokenizer, 77), "ids.clip_2": ids_of(pipeline.tokenizer_2, 77)}
    tensors |= {"ids.t5": ids_of(pipeline.tokenizer_3, 256)}
    write("pipelines/sd3", tensors)


def pixart():
    words, spiece = pieces()
    transformer = PixArtTransformer2DModel(
        num_attention_heads=3, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, cross_attention_dim=24, sample_size=8,
        patch_size=2, caption_channels=20, use_additional_conditions=False,
    )  # fmt: skip
    folder = save(
        "pixart",
        PixArtAlphaPipeline(
            words,
            t5(122, 20, len(words)),
            autoencoder(123, 4, scaling_factor=0.18215),
            randomise(transformer, 121),
            DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
        ),
    )
    replace(folder / "tokenizer", {"spiece.model": spiece})
    pipeline = PixArtAlphaPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    noise = draw(124, 2, 4, SIDE // 2, SIDE // 2)
    with torch.no_grad():
        text, mask, _, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
        tensors = image_of(pipeline, noise, guidance_scale=4.5, use_resolution_binning=False, clean_caption=False)
    tensors |= {"latents": noise, "text": text, "mask": mask.float()}
    tensors |= {"ids.t5": ids_of(pipeline.tokenizer, 120, [prompt.lower().strip() for prompt in PROMPTS])}
    write("pipelines/pixart", tensors)


ALL = {"flux": flux, "sd3": sd3, "pixart": pixart}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "prompts.json").write_text(json.dumps(PROMPTS, ensure_ascii=False, indent=1) + "\n")
    for chosen in sys.argv[1:] or ALL:
        ALL[chosen]()
        size = sum(path.stat().st_size for path in pathlib.Path(FOLDER / chosen).rglob("*") if path.is_file())
        print(f"{chosen}/: {size} bytes")
