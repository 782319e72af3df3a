"""A GLM checkpoint of a few million parameters, made from nothing: tokenizer, chat template, configuration, CTC head.

Knows transformers' `glm_ocr` classes; knows no data and no loss.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from fusion.train.recipe import Size
from fusion.train.tower import CtcHead

PROMPT = "Text Recognition:"
"""GLM-OCR's own fixed prompt; one token here, since a decoder of this size understands no other."""
SPECIAL = (
    *("<|endoftext|>", "<|unk|>", "[MASK]", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"),
    *("<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
    *("<|image|>", "<|video|>", "<think>", "</think>", "/nothink"),
)
TEMPLATE = (
    "[gMASK]<sop>"
    "{%- for message in messages -%}"
    "<|{{ message.role }}|>"
    "{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type in ('image', 'image_url') -%}<|begin_of_image|><|image|><|end_of_image|>"
    "{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)


def tokenizer(alphabet: str) -> transformers.PreTrainedTokenizerFast:
    """One token per character; what is not in the alphabet becomes `<|unk|>`."""
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys((*SPECIAL, PROMPT, *alphabet)))}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    plain.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=plain,
        unk_token="<|unk|>",
        pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        extra_special_tokens=[token for token in SPECIAL if token not in ("<|endoftext|>", "<|unk|>")],
        image_token="<|image|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.add_tokens([PROMPT])
    fast.chat_template = TEMPLATE
    return fast


def glm(size: Size, words: transformers.PreTrainedTokenizerFast) -> transformers.GlmOcrForConditionalGeneration:
    """A fresh `glm_ocr` model, float32; seed torch before."""
    number: Any = words.convert_tokens_to_ids
    half = size.text_width // size.text_heads // 2
    time = half - 2 * (half * 3 // 8)  # the three rotary sections fill half a head
    text = {
        "model_type": "glm_ocr_text",
        "vocab_size": len(words),
        "hidden_size": size.text_width,
        "intermediate_size": 2 * size.text_width,
        "num_hidden_layers": size.text_depth,
        "num_attention_heads": size.text_heads,
        "num_key_value_heads": 2 if size.text_heads % 2 == 0 else 1,
        "max_position_embeddings": 2048,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
        "bos_token_id": None,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0,
            "mrope_section": [time, half * 3 // 8, half * 3 // 8],
        },
    }
    vision = {
        "model_type": "glm_ocr_vision",
        "depth": size.vision_depth,
        "hidden_size": size.vision_width,
        "num_heads": size.vision_heads,
        "intermediate_size": 2 * size.vision_width,
        "out_hidden_size": size.text_width,
        "patch_size": size.patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 1,
        "in_channels": 3,
        "image_size": size.patch * 16,
    }
    config = transformers.GlmOcrConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=number("<|image|>"),
        video_token_id=number("<|video|>"),
        image_start_token_id=number("<|begin_of_image|>"),
        image_end_token_id=number("<|end_of_image|>"),
        video_start_token_id=number("<|begin_of_video|>"),
        video_end_token_id=number("<|end_of_video|>"),
        tie_word_embeddings=True,
    )
    return transformers.GlmOcrForConditionalGeneration._from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call, no-any-return]


def head(size: Size) -> CtcHead:
    """A fresh head for the tower of `glm`."""
    return CtcHead(size.height // size.patch, size.vision_width, size.frames, len(size.alphabet) + 1, size.head)
