"""PP-OCRv6-small's recogniser as a torch network that can be trained: weights are read from its ONNX file and written back.

Knows the network and the file. The graph of the file stays as it is: a written file differs from the one that was read in
its weights alone, and in the characters that `cut` leaves. Parts, as far as they have names: a stem and units of
PP-LCNet (Cui et al., 2021) with squeeze and excitation, a neck of SVTR (Du et al., "SVTR: scene text recognition with a
single visual model", IJCAI 2022), and a CTC head.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from fusion.errors import ReaderError

NAME = "PP-OCRv6_small_rec"
"""Packaged model whose network this is."""
HEIGHT = 48
"""Height of a crop, px."""
COLUMN = 8
"""Width of a CTC frame, px."""
NARROWEST = 320
"""A narrower crop is padded to this width with zeros; the decoder sees the frames of the padding too."""
LATIN_UNTIL = 0x180
"""Characters below this code point are Latin letters, digits and common signs, accents included."""
SIGNS = (
    "–—‘’“”†‡•…‰′″€℃℉™⁰ⁿ₀₁₂₃₄ⅠⅡⅢⅣⅤⅥ←↑→↓↔⇒⇔∂∆∇∈∉∏∑−√∛∞∠∥∩∪∫∴∵≈≠≡≤≥⊂⊥①②③④⑤⑥⑦⑧⑨⑩□▲△○●★☆☐☑☒✓✔✘"
    "ΑΒΓΔΘΛΠΣΦΨΩαβγδεζηθικλμνξπρστυφχψω"
)
"""Other signs found in Latin text: on prescriptions, in homework, in notes."""
_SMALLEST = 16  # smaller constants are operands of the graph, not weights
_PLAIN, _SQUEEZED = False, True
_STAGES = (
    (96, (_SQUEEZED, _PLAIN, _PLAIN)),
    (192, (_SQUEEZED, _PLAIN, _SQUEEZED, _PLAIN, _SQUEEZED, _PLAIN)),
    (384, (_SQUEEZED, _PLAIN)),
)
_NECK, _HEADS, _LAYERS = 120, 8, 2


class _Stem(nn.Module):
    """(B, 3, H, W) to (B, 96, H/4, W/4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 48, 3, 2, 1)
        self.narrow = nn.Conv2d(48, 24, 2)
        self.wide = nn.Conv2d(24, 48, 2)
        self.merge = nn.Conv2d(96, 48, 3, 2, 1)
        self.out = nn.Conv2d(48, 96, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        # Padding below and on the right keeps the sides. No value is negative here, so the pool may take zeros for -inf.
        detail = F.relu(self.narrow(F.pad(x, (0, 1, 0, 1))))
        detail = F.relu(self.wide(F.pad(detail, (0, 1, 0, 1))))
        x = torch.cat([F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 2, 1), detail], 1)
        return F.relu(self.out(F.relu(self.merge(x))))


class _Squeeze(nn.Module):
    """Squeeze and excitation (Hu et al., 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(width, width // 4, 1)
        self.up = nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(F.relu(self.down(x.mean((2, 3), keepdim=True))))
        return x * F.hardsigmoid(gate)


class _Unit(nn.Module):
    """Depthwise 3×3, then two 1×1 with a residual connection; a unit that halves the height has none."""

    def __init__(self, width: int, out: int, squeezed: bool, halves: bool = False) -> None:
        super().__init__()
        self.halves = halves
        self.depthwise = nn.Conv2d(width, width, 3, (2, 1) if halves else 1, 1, groups=width)
        self.squeeze = _Squeeze(width) if squeezed else nn.Identity()
        self.up = nn.Conv2d(width, 2 * width, 1)
        self.down = nn.Conv2d(2 * width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(self.depthwise(x))
        mixed: Tensor = self.down(F.gelu(self.up(x)))
        return mixed if self.halves else x + mixed


class _Norm(nn.Module):
    """Batch normalisation with fixed statistics."""

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, False, 0.0, 1e-5)


class _Mixer(nn.Module):
    """Convolution without bias, normalisation, swish."""

    def __init__(self, width: int, kernel: tuple[int, int] = (1, 1), groups: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, _NECK, kernel, padding=(0, kernel[1] // 2), groups=groups, bias=False)
        self.norm = _Norm(_NECK)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.convolution(x)))


class _Layer(nn.Module):
    """Self-attention over the frames, (B, T, 120)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_NECK)
        self.qkv = nn.Linear(_NECK, 3 * _NECK)
        self.out = nn.Linear(_NECK, _NECK)
        self.norm2 = nn.LayerNorm(_NECK)
        self.up = nn.Linear(_NECK, 2 * _NECK)
        self.down = nn.Linear(2 * _NECK, _NECK)

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, frames, 3, _HEADS, _NECK // _HEADS).permute(2, 0, 3, 1, 4)
        weights = (q * (_NECK // _HEADS) ** -0.5 @ k.transpose(-1, -2)).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, frames, _NECK))
        x = x + self.down(F.silu(self.up(self.norm2(x))))
        return x


class Recogniser(nn.Module):
    """Crops (B, 3, 48, W) in [-1, 1], W a multiple of 8, to logits (B, W/8, classes); class 0 is the blank.

    Modules are in the order of the file's graph.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = _Stem()
        units: list[nn.Module] = []
        for number, (width, squeezes) in enumerate(_STAGES):
            if number:
                units.append(_Unit(_STAGES[number - 1][0], width, _PLAIN, halves=True))
            units += [_Unit(width, width, squeezed) for squeezed in squeezes]
        self.units = nn.Sequential(*units)
        self.around = _Mixer(width)
        self.into = _Mixer(width)
        self.along = _Mixer(_NECK, (1, 7), _NECK)
        self.layers = nn.Sequential(*(_Layer() for _ in range(_LAYERS)))
        self.norm = nn.LayerNorm(_NECK)
        self.head = nn.Linear(_NECK, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Crops to logits."""
        x = F.avg_pool2d(self.units(self.stem(x)), (3, 2))
        around = self.around(x)
        x = self.into(x)
        x = x + self.along(x)
        x = self.norm(self.layers(x.squeeze(2).transpose(1, 2))) + around.squeeze(2).transpose(1, 2)
        logits: Tensor = self.head(x)
        return logits

    def constants(self) -> list[Tensor]:
        """Weights and statistics in the shapes and the order of the file; views, not copies."""
        matrices = {id(module.weight) for module in self.modules() if isinstance(module, nn.Linear)}
        tensors = self.state_dict(keep_vars=True).values()
        return [tensor.detach().T if id(tensor) in matrices else tensor.detach() for tensor in tensors]


def characters_of(model: onnx.ModelProto) -> list[str]:
    """Characters of the classes from 1 on: those the metadata lists, then the space, which it does not list.

    Raises:
        ReaderError: the file lists none.
    """
    listed = [entry.value for entry in model.metadata_props if entry.key == "character"]
    if not listed:
        raise ReaderError("recogniser", "its file lists no characters", "Start from the packaged PP-OCRv6-small.")
    return [*listed[0].split("\n"), " "]


def read(path: Path) -> tuple[Recogniser, list[str]]:
    """The network of a file, and the characters of its classes from 1 on.

    Raises:
        ReaderError: the file holds another network.
    """
    try:
        model = onnx.load(str(path))
    except (OSError, DecodeError) as error:
        problem = f"is no ONNX file that can be read ({type(error).__name__})"
        raise ReaderError(path, problem, "Start from the packaged one, or from one trained on from it.") from error
    characters = characters_of(model)
    held = {one.name: one for one in model.graph.initializer}
    network = Recogniser(len(characters) + 1)
    names, targets = _weights(model), network.constants()
    try:
        with torch.no_grad():
            for name, target in zip(names, targets, strict=True):
                value = torch.from_numpy(numpy_helper.to_array(held[name]).copy())
                target.copy_(value.reshape(target.shape))
    except (ValueError, RuntimeError) as error:
        problem = f"is not the recogniser of PP-OCRv6-small ({error})"
        raise ReaderError(path, problem, "Start from the packaged one, or from one trained on from it.") from error
    return network.eval(), characters


def write(network: Recogniser, source: Path, path: Path) -> None:
    """Write a network that was read from `source` as ONNX."""
    model = onnx.load(str(source))
    held = {one.name: one for one in model.graph.initializer}
    for name, value in zip(_weights(model), network.constants(), strict=True):
        array = np.ascontiguousarray(value.float().cpu().numpy()).reshape(tuple(held[name].dims))
        held[name].CopyFrom(numpy_helper.from_array(array, name))
    partial = path.with_suffix(".part")
    onnx.save(model, str(partial))
    partial.replace(path)


def is_latin(character: str) -> bool:
    """Whether `cut` keeps a character."""
    return character in SIGNS or (len(character) == 1 and ord(character) < LATIN_UNTIL)


def cut(source: Path, path: Path) -> None:
    """Write a copy of `source` that has the classes of Latin script and its signs only.

    Their logits stay the same; the softmax renormalises over the classes that are left.
    """
    model = onnx.load(str(source))
    characters = characters_of(model)
    keep = [0, *(n for n, c in enumerate(characters[:-1], 1) if is_latin(c)), len(characters)]
    held = {one.name: one for one in model.graph.initializer}
    for name in _weights(model)[-2:]:
        array: NDArray[np.float32] = numpy_helper.to_array(held[name])[..., keep]
        held[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = len(keep)
    del model.graph.value_info[:]
    for entry in model.metadata_props:
        if entry.key == "character":
            entry.value = "\n".join(characters[n - 1] for n in keep[1:-1])
    onnx.save(model, str(path))


def _weights(model: onnx.ModelProto) -> list[str]:
    """Names of the weights in the order in which the graph uses them."""
    large = {one.name for one in model.graph.initializer if one.data_type == 1 and np.prod(one.dims) >= _SMALLEST}
    return [name for node in model.graph.node for name in node.input if name in large]
