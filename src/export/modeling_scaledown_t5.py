# A T5 v1.1 encoder with a projection to the text width of a larger encoder, written by `scaledown export --to diffusers`.
# Needs nothing but torch and the base classes of transformers. MIT OR Apache-2.0.
import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class ScaledownT5Config(PretrainedConfig):
    model_type = "scaledown_t5"

    def __init__(
        self, vocab_size=32128, d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_heads=12, relative_attention_num_buckets=32,
        relative_attention_max_distance=128, layer_norm_epsilon=1e-6, projection_hidden=4096, text_width=4096, dropout_rate=0.1,
        token_length=512, **kwargs,
    ):  # fmt: skip
        self.vocab_size = vocab_size
        self.d_model = d_model
        self.d_kv = d_kv
        self.d_ff = d_ff
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.relative_attention_num_buckets = relative_attention_num_buckets
        self.relative_attention_max_distance = relative_attention_max_distance
        self.layer_norm_epsilon = layer_norm_epsilon
        self.projection_hidden = projection_hidden
        self.text_width = text_width
        self.dropout_rate = dropout_rate
        self.token_length = token_length
        super().__init__(**kwargs)


class RMSNorm(nn.Module):
    def __init__(self, width, epsilon):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x):
        # The mean square of a half-precision activation may overflow.
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight * (x * scale).to(self.weight.dtype)


class Attention(nn.Module):
    def __init__(self, config, has_bias):
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.heads = config.num_heads
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        if has_bias:
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)

    def forward(self, x, bias):
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        # T5's queries are not divided by the root of the head width.
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.o(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x):
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class Residual(nn.Module):
    """x + inner(norm(x)); the inner layer has the name that T5's checkpoints give it."""

    def __init__(self, config, name, inner):
        super().__init__()
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.inner_name = name
        self.add_module(name, inner)

    def forward(self, x, *arguments):
        return x + getattr(self, self.inner_name)(self.layer_norm(x), *arguments)


class Block(nn.Module):
    def __init__(self, config, has_bias):
        super().__init__()
        attention = Residual(config, "SelfAttention", Attention(config, has_bias))
        self.layer = nn.ModuleList([attention, Residual(config, "DenseReluDense", FeedForward(config))])

    def forward(self, x, bias):
        return self.layer[1](self.layer[0](x, bias))


class Stack(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.block = nn.ModuleList([Block(config, i == 0) for i in range(config.num_layers)])
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def position_bias(self, length, device):
        """[1, heads, L, L]: near distances have a bucket each, far ones share them logarithmically; one half for each side."""
        half = self.config.relative_attention_num_buckets // 2
        exact = half // 2
        places = torch.arange(length, device=device)
        offset = places[None, :] - places[:, None]
        distance = offset.abs()
        ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.config.relative_attention_max_distance / exact)
        far = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
        buckets = torch.where(distance < exact, distance, far) + half * (offset > 0)
        return self.block[0].layer[0].SelfAttention.relative_attention_bias(buckets).permute(2, 0, 1)[None]

    def forward(self, x, attention_mask):
        bias = self.position_bias(x.shape[1], x.device).to(x.dtype)
        if attention_mask is not None:
            bias = bias.masked_fill(attention_mask[:, None, None, :] == 0, torch.finfo(x.dtype).min)
        for block in self.block:
            x = block(x, bias)
        return self.final_layer_norm(x)


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config)

    def forward(self, input_ids, attention_mask):
        return self.encoder(self.shared(input_ids), attention_mask)


class ScaledownT5Encoder(PreTrainedModel):
    config_class = ScaledownT5Config
    base_model_prefix = ""
    main_input_name = "input_ids"
    _no_split_modules = ["Block"]

    def __init__(self, config):
        super().__init__(config)
        self.encoder = Encoder(config)
        self.final_projection = nn.Sequential(
            nn.Linear(config.d_model, config.projection_hidden, bias=False),
            nn.ReLU(),
            nn.Dropout(config.dropout_rate),
            nn.Linear(config.projection_hidden, config.text_width, bias=False),
        )
        self.post_init()

    def get_input_embeddings(self):
        return self.encoder.shared

    def set_input_embeddings(self, embeddings):
        self.encoder.shared = embeddings

    def forward(self, input_ids, attention_mask=None, return_dict=True, **_):
        """Token ids [B, L] to text embeddings [B, L, text_width]. Without a mask padding is seen, as in Flux's pipelines."""
        text = self.final_projection(self.encoder(input_ids, attention_mask))
        return BaseModelOutput(last_hidden_state=text) if return_dict else (text,)
