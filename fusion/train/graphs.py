"""A checkpoint's computations as ONNX graphs, so that reading with it needs neither torch nor transformers.

Three graphs: `look` (the CTC head), `prompt` (the decoder on crop and prompt) and `proceed` (the decoder on texts after
it). They hold no weights: every initializer points into the safetensors files beside them, so weights exist once and a
checkpoint that was trained on keeps its graphs. Knows torch's exporter and both file formats; runs nothing.
"""

from __future__ import annotations

import copy
import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx.external_data_helper import set_external_data
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoTokenizer

from fusion.errors import InputError
from fusion.train.network import PROMPT
from fusion.train.tower import CtcHead, columns_of, features
from fusion.vlm.small import GRAPHS, HEAD, MODEL, READER, header_sha256

OPSET = 17


class Look(nn.Module):
    """Grey patches to frames of characters."""

    def __init__(self, vision: Any, head: CtcHead, rows: int) -> None:
        """`rows`: patches in the height of a crop."""
        super().__init__()
        self.vision, self.head, self.rows = vision, head, rows

    def forward(self, patches: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Log-probabilities, float32 (B, T, C), of float32 (B, N, side²) with the rotary table (N, d) of their places."""
        columns = columns_of(features(self.vision, patches, cos, sin), self.rows, self.vision.spatial_merge_size)
        return self.head(columns)  # type: ignore[no-any-return]


class Prompt(nn.Module):
    """Crop and prompt to the keys and values that texts continue from."""

    def __init__(self, vision: Any, language: Any) -> None:
        super().__init__()
        self.vision, self.language = vision, language

    def forward(
        self,
        patches: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        before: torch.Tensor,
        after: torch.Tensor,
        text_cos: torch.Tensor,
        text_sin: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of the first token, float32 (1, V), and keys and values, float32 (layers, 1, heads, n, d).

        Args:
            patches: of one crop, as for `Look`.
            cos: as for `Look`.
            sin: as for `Look`.
            before: int64, token ids before the image.
            after: int64, token ids after it.
            text_cos: float32 (n, d), rotary table of all n tokens, image tokens included.
            text_sin: the same.
        """
        vision, merge = self.vision, self.vision.spatial_merge_size
        seen = features(vision, patches, cos, sin)
        squares = seen.reshape(-1, merge, merge, seen.shape[-1]).permute(0, 3, 1, 2)
        image = vision.merger(vision.downsample(squares).flatten(1))
        embed = self.language.embed_tokens
        hidden = torch.cat([embed(before), image, embed(after)])[None]
        count = hidden.shape[1]
        ahead = torch.ones(count, count, dtype=torch.bool).triu(1)
        hidden, keys, values = _decode(self.language, hidden, text_cos, text_sin, None, None, ahead)
        return functional.linear(hidden[:, -1], embed.weight), keys, values


class Proceed(nn.Module):
    """Texts after a prompt to the logits of their next tokens."""

    def __init__(self, language: Any) -> None:
        super().__init__()
        self.language = language

    def forward(
        self,
        tokens: torch.Tensor,
        text_cos: torch.Tensor,
        text_sin: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """Logits, float32 (B, w, V), of int64 (B, w) after `keys` and `values` of a `Prompt`; rotary table (w, d)."""
        hidden = self.language.embed_tokens(tokens)
        batch, width = tokens.shape
        ahead = torch.ones(width, width, dtype=torch.bool).triu(1)
        seen = torch.zeros(width, keys.shape[3], dtype=torch.bool)
        every = (-1, batch, -1, -1, -1)
        hidden, _, _ = _decode(
            self.language,
            hidden,
            text_cos,
            text_sin,
            keys.expand(*every),
            values.expand(*every),
            torch.cat([seen, ahead], 1),
        )
        return functional.linear(hidden, self.language.embed_tokens.weight)


def _decode(
    language: Any,
    hidden: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    old_keys: torch.Tensor | None,
    old_values: torch.Tensor | None,
    hidden_from: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The layers of a `GlmOcrTextModel` written out; `hidden_from` (n, m) says which tokens don't see which."""
    keys, values = [], []
    for number, layer in enumerate(language.layers):
        attention = layer.self_attn
        inner = layer.input_layernorm(hidden)
        batch, count, _ = inner.shape
        query, key, value = (
            projection(inner).view(batch, count, -1, attention.head_dim).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = _turned(query, cos, sin), _turned(key, cos, sin)
        if old_keys is not None and old_values is not None:
            key, value = torch.cat([old_keys[number], key], 2), torch.cat([old_values[number], value], 2)
        keys.append(key)
        values.append(value)
        shared = attention.num_key_value_groups
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        scores = (query @ key.transpose(2, 3) * attention.scaling).masked_fill(hidden_from, float("-inf"))
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, count, -1)
        hidden = hidden + layer.post_self_attn_layernorm(attention.o_proj(mixed))
        hidden = hidden + layer.post_mlp_layernorm(layer.mlp(layer.post_attention_layernorm(hidden)))
    return language.norm(hidden), torch.stack(keys), torch.stack(values)


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions, pairs of neighbouring numbers turned together, as GLM's text model has them."""
    odd = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
    return x * cos + odd * sin


def write_graphs(
    model: Any, head: CtcHead, tokenizer: Any, prompt: str, settings: dict[str, Any], folder: Path
) -> None:
    """Write the graphs, and `reader.json` with all that is needed to use them, beside the weights of a checkpoint.

    Args:
        model: `GlmOcrForConditionalGeneration`, float32, whose weights are in `folder`.
        head: of the same checkpoint.
        tokenizer: one token per character.
        prompt: the question that the decoder was trained on.
        settings: `height`, `frames`, `softness` and `alphabet` of the head.
        folder: of the checkpoint.
    """
    vision, language = model.model.visual, model.model.language_model
    rows = settings["height"] // vision.patch_size
    count, width = 2 * rows, vision.blocks[0].attn.qkv.in_features // vision.blocks[0].attn.num_heads
    text_width = language.layers[0].self_attn.head_dim
    crop = (torch.zeros(1, count, vision.patch_size**2), torch.zeros(count, width), torch.zeros(count, width))
    tokens = count // vision.spatial_merge_size**2 + 4
    around = (torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long))
    table = (torch.zeros(tokens, text_width), torch.zeros(tokens, text_width))
    proceed = Proceed(language)
    state = Prompt(vision, language)
    with torch.no_grad():
        _, keys, values = state(*crop, *around, *table)
    texts = (torch.zeros(2, 3, dtype=torch.long), torch.zeros(3, text_width), torch.zeros(3, text_width), keys, values)
    text_axes = {"text_cos": {0: "n"}, "text_sin": {0: "n"}}
    crop_axes = {"patches": {0: "B", 1: "N"}, "cos": {0: "N"}, "sin": {0: "N"}}
    cached = {"keys": {3: "m"}, "values": {3: "m"}}
    jobs: dict[str, tuple[nn.Module, Any, list[str], dict[str, dict[int, str]]]] = {
        "look": (Look(vision, head, rows), crop, ["frames"], crop_axes | {"frames": {0: "B", 1: "T"}}),
        "prompt": (
            state,
            (*crop, *around, *table),
            ["logits", "keys", "values"],
            crop_axes | text_axes | {"before": {0: "b"}, "after": {0: "a"}} | cached,
        ),
        "proceed": (
            proceed,
            texts,
            ["logits"],
            text_axes | {"tokens": {0: "B", 1: "n"}} | cached | {"logits": {0: "B", 1: "n"}},
        ),
    }
    for name, (module, example, outputs, axes) in jobs.items():
        _export(_distinct(module.eval()), example, outputs, axes, folder / GRAPHS[name])
        _share_weights(module, model, head, folder / GRAPHS[name])
    content = _settings(model, tokenizer, prompt, settings, folder)
    (folder / READER).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def rewrite_graphs(folder: Path) -> None:
    """Write the graphs of a checkpoint anew, from its weights and its `reader.json`.

    Raises:
        InputError: it is no checkpoint of the small reader.
    """
    try:
        settings = json.loads((folder / READER).read_text(encoding="utf-8"))
        settings = {name: settings[name] for name in ("height", "frames", "hidden", "softness", "alphabet")}
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        vision = model.model.visual
        rows, width = settings["height"] // vision.patch_size, vision.config.hidden_size
        head = CtcHead(rows, width, settings["frames"], len(settings["alphabet"]) + 1, settings["hidden"])
        head.load_state_dict(load_file(folder / HEAD))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        way = "Give a folder that `python -m fusion.train reader` or `adapt-reader` has written."
        raise InputError(folder, f"is no checkpoint of the small reader ({type(error).__name__})", way) from error
    write_graphs(model, head, tokenizer, PROMPT, settings, folder)


def _export(
    module: nn.Module, example: tuple[Any, ...], outputs: list[str], axes: dict[str, dict[int, str]], path: Path
) -> None:
    inputs = list(itertools.islice(module.forward.__code__.co_varnames[1:], len(example)))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer names every shape that it takes as fixed: those are meant
        torch.onnx.export(
            module,
            example,
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: axis for name, axis in axes.items() if name in (*inputs, *outputs)},
            opset_version=OPSET,
            do_constant_folding=False,  # a folded weight is no longer the one in the safetensors file
            dynamo=False,
        )


def _distinct(module: nn.Module) -> nn.Module:
    """A copy of which no two weights are equal: the exporter would merge those that are into one."""
    copied = copy.deepcopy(module)
    with torch.no_grad():
        for number, parameter in enumerate(copied.parameters()):
            parameter.copy_(torch.rand_like(parameter) + number)
    return copied


def _share_weights(module: nn.Module, model: Any, head: CtcHead, path: Path) -> None:
    """Let every initializer that is a weight point at its bytes in the checkpoint's safetensors files."""
    graph = onnx.load(str(path))
    stored: dict[int, tuple[str, int, int]] = {}
    for file, owner in ((HEAD, head), (MODEL, model)):
        places = _places(path.parent / file)
        tensors = owner.state_dict()
        stored |= {tensors[name].data_ptr(): (file, *place) for name, place in places.items() if name in tensors}
    weights = {name: tensor.data_ptr() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    for tensor in graph.graph.initializer:
        if tensor.name not in weights:
            continue  # a constant of the graph itself
        file, offset, length = stored[weights[tensor.name]]
        if len(tensor.raw_data) != length:
            raise ValueError(f"{tensor.name} is not stored as it is used")
        set_external_data(tensor, file, offset, length)
        tensor.ClearField("raw_data")
    onnx.save(graph, str(path))


def _places(path: Path) -> dict[str, tuple[int, int]]:
    """Name → (first byte, number of bytes) of the tensors of a safetensors file (its format: length, JSON header, bytes)."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    start = 8 + length
    return {
        name: (start + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _settings(model: Any, tokenizer: Any, prompt: str, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a user of the graphs must know."""
    text, vision = model.config.text_config, model.config.vision_config
    image = tokenizer.convert_ids_to_tokens(model.config.image_token_id)
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    before, after = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in whole.split(image))
    characters = {c: tokenizer.convert_tokens_to_ids(c) for c in settings["alphabet"]}
    return settings | {
        "patch": vision.patch_size,
        "merge": vision.spatial_merge_size,
        "vision_rotary": {
            "width": vision.hidden_size // vision.num_heads,
            "theta": vision.rope_parameters["rope_theta"],
        },
        "text_rotary": {
            "width": text.hidden_size // text.num_attention_heads,
            "theta": text.rope_parameters["rope_theta"],
            "sections": list(text.rope_parameters["mrope_section"]),
        },
        "characters": characters,
        "unknown": tokenizer.unk_token_id,
        "stop": tokenizer.eos_token_id,
        "before": before,
        "after": after,
        "headers": {name: header_sha256(folder / name) for name in (MODEL, HEAD)},
    }
