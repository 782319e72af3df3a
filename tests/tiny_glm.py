"""Tiny random GLM-V checkpoints of the three classes, on disk as the real ones are, in about a second each.

They know nothing: their answers are noise, but noise that depends on every pixel and every token, so a misplaced
position, a wrong mask or a shifted token changes it. Generation settings are those of the real checkpoints (sampling,
a repetition penalty, two stop tokens): a reader that lets them through is caught.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

Kind = Literal["glm4v", "glm46v", "glm_ocr"]
KINDS: tuple[Kind, ...] = ("glm4v", "glm46v", "glm_ocr")
STOPS = ("<|endoftext|>", "<|user|>")
SPECIAL = (
    *("<|endoftext|>", "<|unk|>", "[MASK]", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"),
    *("<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
    *("<|image|>", "<|video|>", "<think>", "</think>", "/nothink"),
)
CHARACTERS = "".join(map(chr, range(32, 127))) + "\n今天明气温会降到度第二步纸上写着请逐字抄录图片中的手"
TEMPLATE = (
    "[gMASK]<sop>"
    "{%- for message in messages -%}"
    "<|{{ message.role }}|>"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}<|begin_of_image|><|image|><|end_of_image|>"
    "{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if enable_thinking is defined and not enable_thinking -%}/nothink{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>"
    "{%- if enable_thinking is defined and not enable_thinking -%}<think></think>{%- endif -%}"
    "{%- endif -%}"
)
PATCH, MERGE = 8, 2
_CONFIGS = {
    "glm4v": (transformers.Glm4vConfig, "glm4v_text", "glm4v_vision"),
    "glm46v": (transformers.Glm46VConfig, "glm4v_text", "glm4v_vision"),
    "glm_ocr": (transformers.GlmOcrConfig, "glm_ocr_text", "glm_ocr_vision"),
}


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One token per character, GLM's special tokens first; characters that it lacks become `<|unk|>`."""
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys((*SPECIAL, *CHARACTERS)))}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    plain.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain,
        unk_token="<|unk|>",
        pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        extra_special_tokens=[token for token in SPECIAL if token not in ("<|endoftext|>", "<|unk|>")],
        padding_side="right",  # the wrong one for generation, to see that the reader doesn't trust it
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def config(kind: Kind, words: transformers.PreTrainedTokenizerFast) -> Any:
    """Two vision blocks, two decoder layers, about 40 thousand parameters; three axes of rotation as in the real ones."""
    make, text_type, vision_type = _CONFIGS[kind]
    number = words.convert_tokens_to_ids
    text = {
        "model_type": text_type,
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "initializer_range": 0.5,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": number(list(STOPS)),
        # The three sections sum to half of the head (16): time, row, column.
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0,
            "mrope_section": [2, 3, 3],
        },
    }
    vision = {
        "model_type": vision_type,
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 64,
        "out_hidden_size": 32,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "in_channels": 3,
        "image_size": PATCH * 8,
        "initializer_range": 0.3,
    }
    return make(
        text_config=text,
        vision_config=vision,
        image_token_id=number("<|image|>"),
        video_token_id=number("<|video|>"),
        image_start_token_id=number("<|begin_of_image|>"),
        image_end_token_id=number("<|end_of_image|>"),
        video_start_token_id=number("<|begin_of_video|>"),
        video_end_token_id=number("<|end_of_video|>"),
        tie_word_embeddings=False,
    )


def build(folder: Path, kind: Kind, seed: int = 0) -> Path:
    """Write a checkpoint of random weights to `folder / kind` and return that folder."""
    words = tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForImageTextToText.from_config(config(kind, words), dtype=torch.float32)
    model.generation_config = transformers.GenerationConfig(
        do_sample=True,
        temperature=0.8,
        top_p=0.6,
        top_k=2,
        repetition_penalty=1.5,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.convert_tokens_to_ids(list(STOPS)),
    )
    target = folder / kind
    model.save_pretrained(target)
    words.save_pretrained(target)
    name = "Glm4v" if kind == "glm4v" else "Glm46V"
    images = {
        "image_processor_type": f"{name}ImageProcessor",
        "processor_class": f"{name}Processor",
        "size": {"shortest_edge": (PATCH * MERGE) ** 2 * 8, "longest_edge": (PATCH * MERGE) ** 2 * 256},
        "do_rescale": True,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (target / "preprocessor_config.json").write_text(json.dumps(images, indent=1), encoding="utf-8")
    return target
