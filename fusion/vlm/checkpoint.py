"""GLM-V checkpoints on disk: loading one, what is wrong with one, and the images that one takes.

Knows transformers' loaders and the crop sizes that GLM's image processor accepts; knows no question and no answer.
Importing this file imports torch and transformers.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from fusion.config import LocalVlm
from fusion.errors import ConfigError, DependencyError, ReaderError
from fusion.vlm.images import LONGEST_SIDE, THINNEST, on_strip

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL_TYPES = ("glm4v", "glm4v_moe", "glm46v", "glm_ocr")
"""`model_type` of the checkpoints whose tokens, image grid and rotary positions are the ones put together here."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a folder holds once loaded.

    Attributes:
        model: in evaluation mode, on its device.
        tokenizer: with a chat template.
        images: image processor (PIL), cuts an image into patches.
        stops: ids of the tokens that end an answer, at least one.
    """

    model: Any
    tokenizer: Any
    images: Any
    stops: list[int]

    @property
    def unit(self) -> int:
        """Side of the square that becomes one image token, px."""
        return int(self.images.patch_size * self.images.merge_size)

    def view(self, pixels: NDArray[np.uint8]) -> Image.Image:
        """A crop, uint8 (h, w, 3) RGB and not empty, as this checkpoint was trained to see it."""
        return fit(pixels, self.unit)


def load(config: LocalVlm) -> Checkpoint:
    """Load a checkpoint from a folder or the local hub cache; from the hub itself only with `vlm.download`.

    Raises:
        DependencyError: there is no such checkpoint here.
        ReaderError: it is not a GLM-V checkpoint, or it is broken.
        ConfigError: the device can't be used.
    """
    torch.set_num_threads(config.threads)
    name = _folder(config)
    # No code of a checkpoint runs, ever: its classes are those of transformers, and nobody is asked on the terminal.
    where = {"local_files_only": not config.download, "trust_remote_code": False}
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        settings = AutoConfig.from_pretrained(name, **where)
        if settings.model_type not in MODEL_TYPES:
            raise ReaderError(
                config.model,
                f"is a {settings.model_type} checkpoint, not a GLM vision-language model ({', '.join(MODEL_TYPES)})",
                "Name one in vlm.model, e.g. zai-org/GLM-OCR; other models can be used with vlm.engine: served.",
            )
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", **where)
        # PIL with and without torchvision: the same pixels, hence the same readings, on every installation.
        images = AutoImageProcessor.from_pretrained(name, backend="pil", **where)  # type: ignore[no-untyped-call]
        model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype=config.dtype, **where)
    except OSError as error:
        if Path(name).is_dir():
            raise _broken(config.model, first_line(error)) from error
        raise DependencyError(
            config.model,
            f"no such checkpoint on this machine ({first_line(error)})",
            "Put its files into a folder and name that in vlm.model, fetch it once by its hub name (such as "
            "`hf download zai-org/GLM-OCR`), or set vlm.download: true to let it be fetched from the model hub.",
        ) from error
    except ImportError as error:
        raise DependencyError(config.model, first_line(error), "Install the package that it names.") from error
    except (ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _broken(config.model, first_line(error)) from error
    if tokenizer.chat_template is None:
        raise _broken(config.model, "it has no chat template (chat_template.jinja)")
    tokenizer.clean_up_tokenization_spaces = False  # answers are kept verbatim
    model = _place(model.eval(), config.device)
    return Checkpoint(model, tokenizer, images, _adopt_stops(model, tokenizer))


def _folder(config: LocalVlm) -> str:
    """The folder that holds the checkpoint, or the hub name where it is not here yet.

    Loading by folder keeps the hub's client off the network: by name it asks after adapters even when told not to.
    """
    if config.download or Path(config.model).is_dir():
        return config.model
    try:
        found = try_to_load_from_cache(config.model, "config.json")
    except ValueError:  # no name that a hub could have
        return config.model
    return str(Path(found).parent) if isinstance(found, str) else config.model


def _broken(model: str, problem: str) -> ReaderError:
    return ReaderError(
        model, f"does not load as a GLM vision-language model ({problem})", "Fetch or export the checkpoint again."
    )


def first_line(error: BaseException) -> str:
    """What a library's error says, without its advice; the name of the error where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _place(model: Any, device: str) -> Any:
    """Move the model to its device."""
    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:  # torch without CUDA answers with an AssertionError
        raise ConfigError(
            f"vlm.device: {device}", first_line(error), "Use cpu, or a device that torch sees here with enough memory."
        ) from error


def _adopt_stops(model: Any, tokenizer: Any) -> list[int]:
    """Keep from the checkpoint's generation settings what ends an answer, and nothing else; see that padding is possible.

    GLM's settings sample and punish repetition. Handwriting repeats words, and the log-probabilities that are kept have
    to be the model's own.
    """
    stops = model.generation_config.eos_token_id
    stops = tokenizer.eos_token_id if stops is None else stops
    stops = [stops] if isinstance(stops, int) else list(stops or ())
    if not stops:
        raise _broken(model.name_or_path, "it names no token that ends an answer (eos_token_id)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = stops[0]
    model.generation_config = GenerationConfig(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id)  # type: ignore[no-untyped-call]
    return stops


def fingerprint(checkpoint: Checkpoint) -> str:
    """What a checkpoint's answers depend on, as 16 hex digits: chat template, image settings, a sample of every weight."""
    digest = hashlib.sha256(f"{checkpoint.tokenizer.chat_template}\0{checkpoint.images.to_json_string()}".encode())
    for name, weight in checkpoint.model.state_dict().items():
        sample = weight.flatten()[:64].float().cpu().numpy()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()[:16]


def fit(pixels: NDArray[np.uint8], unit: int) -> Image.Image:
    """Bring a crop to a size that the image processor takes.

    An ordinary crop is left as it is. A low one is enlarged to two image tokens in height, a huge one reduced until its
    long side is `LONGEST_SIDE`; what is still too thin is put on a strip of its own paper.

    Args:
        pixels: uint8 (h, w, 3), RGB, not empty.
        unit: px of the square that becomes one image token.
    """
    image = Image.fromarray(pixels)
    factor = min(LONGEST_SIDE / max(image.size), max(1.0, 2 * unit / image.height))
    if factor != 1.0:
        width, height = (max(1, round(side * factor)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return on_strip(image, max(unit, math.ceil(max(image.size) / THINNEST)))
