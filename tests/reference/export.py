"""What Python makes of exported students; run by hand, see CONTRIBUTING.md.

    python export.py FOLDER STUDENT

FOLDER holds what `scaledown export` wrote, a folder each (`diffusers`, and any number with a GGUF file), and the files of the test
`files_for_python`. STUDENT is the student's folder. Needs `gguf` besides requirements.txt.
"""

import pathlib
import sys
import tempfile

import gguf
import numpy
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file
from transformers import AutoModel, CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from tiny import FIXTURES, randomise

TOKENIZER = FIXTURES.parent.parent / "pipelines" / "mini" / "tokenizer.json"
PROMPT = "a red cube left of a blue ball"


def tokenizer(length):
    words = dict(pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), model_max_length=length, **words)


def flux(encoder, length):
    """A pipeline of tiny random networks around the encoder."""
    clip = CLIPTextConfig(
        vocab_size=1024, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, projection_dim=32,
        max_position_embeddings=length, eos_token_id=1,
    )  # fmt: skip
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=encoder.config.text_width, pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    autoencoder = AutoencoderKL(
        block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, latent_channels=4, use_quant_conv=False,
        use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.4,
    )  # fmt: skip
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=randomise(autoencoder, 1), text_encoder=randomise(CLIPTextModel(clip), 2),
        tokenizer=tokenizer(length), text_encoder_2=encoder, tokenizer_2=tokenizer(length), transformer=randomise(transformer, 3),
    )  # fmt: skip


def images(pipeline, length, **prompt):
    generator = torch.Generator().manual_seed(7)
    call = dict(height=16, width=16, num_inference_steps=4, guidance_scale=3.5, max_sequence_length=length, output_type="np")
    return pipeline(generator=generator, **call, **prompt).images


@torch.no_grad()
def diffusers(folder, expected):
    encoder = AutoModel.from_pretrained(folder / "diffusers", trust_remote_code=True)
    ids, text = expected["ids"].long(), expected["text"]
    length = ids.shape[1]
    found = encoder(ids)
    assert found[0] is found.last_hidden_state and found[0].shape == text.shape
    print(f"hidden states: largest difference {(found[0] - text).abs().max():.1e}, largest value {text.abs().max():.2f}")
    assert (found[0] - text).abs().max() <= 1e-4
    # A mask hides what it masks: other ids there change nothing.
    mask = (ids != 0).long()
    other = torch.where(mask == 1, ids, 5)
    seen = mask.bool()
    assert torch.allclose(encoder(ids, attention_mask=mask)[0][seen], encoder(other, attention_mask=mask)[0][seen], atol=1e-6)
    print(f"dtype {encoder.dtype}, device {encoder.device}, in half precision {encoder.half().dtype}")
    encoder.float()

    pipeline = flux(encoder, length)
    assert torch.equal(pipeline.tokenizer_2(PROMPT, padding="max_length", max_length=length, return_tensors="pt").input_ids, ids)
    by_prompt = images(pipeline, length, prompt=PROMPT)
    _, pooled, _ = pipeline.encode_prompt(PROMPT, PROMPT, max_sequence_length=length)
    by_embedding = images(pipeline, length, prompt_embeds=text, pooled_prompt_embeds=pooled)
    print(f"images: largest difference {numpy.abs(by_prompt - by_embedding).max():.1e}, spread {by_prompt.std():.2f}")
    assert numpy.abs(by_prompt - by_embedding).max() <= 1e-4 and by_prompt.std() > 0.01
    other = images(pipeline, length, prompt_embeds=text.roll(1, 2), pooled_prompt_embeds=pooled)
    print(f"images of another text: largest difference {numpy.abs(by_prompt - other).max():.2f}")
    assert numpy.abs(by_prompt - other).max() > 1e-2, "the images do not depend on the text"

    # The encoder given to `from_pretrained`, as the card says.
    with tempfile.TemporaryDirectory() as saved:
        t5 = pipeline.text_encoder_2
        pipeline.register_modules(text_encoder_2=None)
        pipeline.save_pretrained(saved)
        again = FluxPipeline.from_pretrained(saved, text_encoder_2=t5)
        assert numpy.array_equal(images(again, length, prompt=PROMPT), by_prompt)
    print("FluxPipeline.from_pretrained(…, text_encoder_2=encoder): the same image")




def check_gguf(path, student, widened):
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.fields[key].contents()
    assert field("GGUF.version") == 3 and field("general.architecture") == "t5encoder"
    names = gguf.TensorNameMap(gguf.MODEL_ARCH.T5ENCODER, field("t5encoder.block_count"))
    ours = {}
    for name, value in student.items():
        stem = name.removeprefix("encoder.").removesuffix(".weight")
        ours[f"{names.get_name(stem) or stem}.weight"] = value
    assert {tensor.name for tensor in reader.tensors} == set(ours) == set(widened)
    worst, kinds = 0.0, {}
    for tensor in reader.tensors:
        value = torch.from_numpy(numpy.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type)))
        assert value.shape == ours[tensor.name].shape, tensor.name
        assert torch.equal(value.float(), widened[tensor.name]), f"{tensor.name}: gguf-py and candle widen it differently"
        if tensor.tensor_type == gguf.GGMLQuantizationType.F32:
            assert torch.equal(value, ours[tensor.name]), tensor.name
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
        worst = max(worst, ((value - ours[tensor.name]).norm() / ours[tensor.name].norm()).item())
    print(f"{path.name}: {kinds}, largest relative error {worst:.1e}, student {field('scaledown.student.sha256')[:12]}")


if __name__ == "__main__":
    folder, student = map(pathlib.Path, sys.argv[1:])
    diffusers(folder, load_file(folder / "expected.safetensors"))
    for path in sorted(folder.glob("*/*.gguf")):
        check_gguf(path, load_file(student / "student.safetensors"), load_file(path.parent.with_suffix(".safetensors")))
