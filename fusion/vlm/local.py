"""A GLM-V checkpoint in this process: GLM-4.1V, GLM-4.6V-Flash or GLM-OCR, with torch and transformers (extra `glm`).

Importing this file imports torch and transformers: `open_reader` does so only when this reader is configured.

Tokenizer and image processor are joined here, because transformers' own GLM processor insists on a video processor,
which needs torchvision; `test_inputs_are_those_of_the_checkpoints_own_processor` compares the two.
"""

from __future__ import annotations

import copy
import hashlib
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from jinja2 import TemplateError
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from fusion.config import LocalVlm
from fusion.errors import ConfigError, DependencyError, ReaderError
from fusion.ink import image_sha256
from fusion.page import Failure, Token
from fusion.vlm.asking import AskingReader, Question
from fusion.vlm.cache import AnswerCache, answer_key
from fusion.vlm.images import fit
from fusion.vlm.prompts import Kind, render
from fusion.vlm.protocol import Answer, Look, Query

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODEL_TYPES = ("glm4v", "glm4v_moe", "glm46v", "glm_ocr")
"""`model_type` of the checkpoints whose tokens, image grid and rotary positions are the ones put together here."""


MOST_LAYERS = 200
"""Layers of a part of a model; GLM-4.6V has 46."""
TEMPLATE_LINES = 1_000_000
"""Lines that rendering a chat template may take."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint."""

    model: Any  # in evaluation mode, on its device
    tokenizer: Any  # with a chat template
    images: Any  # image processor (PIL), cuts an image into patches
    stops: list[int]  # ids of the tokens that end an answer, at least one

    def view(self, pixels: NDArray[np.uint8]) -> Image.Image:
        """A crop, uint8 (h, w, 3) RGB and not empty, at least two image tokens high and one wide."""
        unit = int(self.images.patch_size * self.images.merge_size)
        return fit(Image.fromarray(pixels), 2 * unit, unit)

    def fingerprint(self) -> str:
        """16 hex digits of a hash over chat template, image settings and a sample of every weight."""
        digest = hashlib.sha256(f"{self.tokenizer.chat_template}\0{self.images.to_json_string()}".encode())
        for name, weight in self.model.state_dict().items():
            sample = weight.flatten()[:64].float().cpu().numpy()
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode() + sample.tobytes())
        return digest.hexdigest()[:16]


def load(config: LocalVlm) -> Checkpoint:
    """Load a checkpoint from a folder or the local hub cache; from the hub itself only with `vlm.download`.

    Raises:
        DependencyError: there is no such checkpoint here.
        ReaderError: it is not a GLM-V checkpoint, or it is broken.
        ConfigError: the device can't be used.
    """
    torch.set_num_threads(config.threads)
    name = _folder(config)
    # trust_remote_code: no code of a checkpoint ever runs, and nobody is asked on the terminal.
    where = {"local_files_only": not config.download, "trust_remote_code": False}
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        settings = AutoConfig.from_pretrained(name, **where)
        if (kind := settings.model_type) not in MODEL_TYPES:
            problem = f"is a {kind} checkpoint, not a GLM vision-language model ({', '.join(MODEL_TYPES)})"
            way = "Name one in vlm.model, e.g. zai-org/GLM-OCR; other models can be used with vlm.engine: served."
            raise ReaderError(config.model, problem, way)
        stated = re.findall(r'"(?:num_hidden_layers|depth)": (\d+)', settings.to_json_string(use_diff=False))
        if (layers := max(map(int, stated), default=0)) > MOST_LAYERS:  # they would be made before anything is compared
            raise _broken(config.model, f"its config.json names {layers} layers, over {MOST_LAYERS}")
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", **where)
        # PIL with and without torchvision: the same pixels, hence the same readings, on every installation.
        images = AutoImageProcessor.from_pretrained(name, backend="pil", **where)  # type: ignore[no-untyped-call]
        model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype=config.dtype, **where)
    except OSError as error:
        if Path(name).is_dir():
            raise _broken(config.model, first_line(error)) from error
        way = (
            "Put its files into a folder and name that in vlm.model, fetch it once by its hub name (such as "
            "`hf download zai-org/GLM-OCR`), or set vlm.download: true to let it be fetched from the model hub."
        )
        problem = f"no such checkpoint on this machine ({first_line(error)})"
        raise DependencyError(config.model, problem, way) from error
    except ImportError as error:
        raise DependencyError(config.model, first_line(error), "Install the package that it names.") from error
    except (ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _broken(config.model, first_line(error)) from error
    if tokenizer.chat_template is None:
        raise _broken(config.model, "it has no chat template (chat_template.jinja)")
    if not _renders(tokenizer):
        raise _broken(config.model, "its chat template fails, or does not come to an end")
    tokenizer.clean_up_tokenization_spaces = False  # answers are kept verbatim
    try:
        model = model.eval().to(torch.device(config.device))
    except (RuntimeError, AssertionError) as error:  # torch without CUDA answers with an AssertionError
        way = "Use cpu, or a device that torch sees here with enough memory."
        raise ConfigError(f"vlm.device: {config.device}", first_line(error), way) from error
    stops = model.generation_config.eos_token_id
    stops = tokenizer.eos_token_id if stops is None else stops
    stops = [stops] if isinstance(stops, int) else list(stops or ())
    if not stops:
        raise _broken(config.model, "it names no token that ends an answer (eos_token_id)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = stops[0]
    # GLM's own generation settings sample and punish repetition: handwriting repeats words, and the log-probabilities
    # that are kept have to be the model's own.
    model.generation_config = GenerationConfig(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id)  # type: ignore[no-untyped-call]
    return Checkpoint(model, tokenizer, images, stops)


def _renders(tokenizer: Any) -> bool:
    """Whether the chat template of a checkpoint, a program of its own, is done with a question in `TEMPLATE_LINES`."""
    left, before = TEMPLATE_LINES, sys.gettrace()

    def count(*_: object) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise RecursionError
        return count

    content = [{"type": "image"}, {"type": "text", "text": "?"}]
    sys.settrace(count)
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    except (TemplateError, RecursionError, ArithmeticError, LookupError, TypeError, ValueError):
        return False
    finally:
        sys.settrace(before)
    return True


def _folder(config: LocalVlm) -> str:
    """The folder that holds the checkpoint, or the hub name where it is not here yet.

    Loading by folder keeps the hub's client off the network: by name it asks for adapters even when told not to.
    """
    if config.download or Path(config.model).is_dir():
        return config.model
    try:
        found = try_to_load_from_cache(config.model, "config.json")
    except ValueError:  # no name that a hub could have
        return config.model
    return str(Path(found).parent) if isinstance(found, str) else config.model


def _broken(model: str, problem: str) -> ReaderError:
    problem = f"does not load as a GLM vision-language model ({problem})"
    return ReaderError(model, problem, "Fetch or export the checkpoint again.")


def first_line(error: BaseException) -> str:
    """A library's message without its advice; the name of the error where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def log_probabilities(logits: torch.Tensor, stops: Sequence[int]) -> torch.Tensor:
    """Natural log-probabilities in float32, (…, V) to (…, V).

    Where several tokens end an answer, ending is one event: each of them gets the sum of their probabilities.
    """
    table = logits.float().log_softmax(-1)
    table[..., list(stops)] = table[..., list(stops)].logsumexp(-1, keepdim=True)
    return table


class Draw(transformers.LogitsProcessor):
    """Lets a greedy `generate` draw each row on its own, and notes the log-probabilities of what it chooses.

    With Gumbel noise times the temperature added, the greedy choice is a draw from the softmax at that temperature (the
    Gumbel-max trick). The noise of a row comes from its own seed, so an answer depends neither on the rest of the batch
    nor on earlier questions. Noting one number a row spares the (tokens, B, V) of `output_logits`.
    """

    def __init__(
        self, stops: Sequence[int], temperatures: Sequence[float], seeds: Sequence[int], device: torch.device
    ) -> None:
        self._stops = stops
        self._temperatures = torch.tensor(temperatures, device=device)[:, None]
        self._warm = any(temperatures)
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._noted: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Take the logits of the next token, float32 (B, V), and return those to choose the best from."""
        drawn = scores
        if self._warm:
            noise = torch.stack([torch.empty_like(scores[0]).exponential_(generator=g) for g in self._generators])
            drawn = scores - self._temperatures * noise.clamp_min(torch.finfo(noise.dtype).tiny).log()
        chosen = drawn.argmax(-1, keepdim=True)
        self._noted.append(log_probabilities(scores, self._stops).gather(1, chosen)[:, 0])
        return drawn

    def chosen(self, count: int) -> torch.Tensor:
        """Log-probabilities of the first `count` tokens, float32 (B, count); generation may have gone on beyond them."""
        return torch.stack(self._noted[:count], dim=1)


def token_texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """The text of each token; together they are the text of all.

    A character that is spread over several tokens, as rare Han characters are, is given to the last of them.
    """
    texts: list[str] = []
    start = 0
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[start:end], skip_special_tokens=False)
        unfinished = text.endswith("\N{REPLACEMENT CHARACTER}") and end < len(ids) and end - start < 4
        texts.append("" if unfinished else text)
        start = start if unfinished else end
    return texts


def _seed(question: Question) -> int:
    """The same question about the same pixels is drawn the same way every time."""
    key = answer_key(image_sha256(question.pixels), question.text, "", {"temperature": question.temperature})
    return int(key[:15], 16)


def _chunks(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (order[start : start + size] for start in range(0, len(order), size))


class LocalReader(AskingReader):
    """A GLM-V checkpoint on this machine: `Looks`, `Writes` and `Answers`. Threads take turns."""

    name = "local"

    def __init__(self, config: LocalVlm, cache: AnswerCache, checkpoint: Checkpoint) -> None:
        """Take over a loaded checkpoint."""
        super().__init__(config, cache)
        self._config = config
        self._lock = threading.Lock()
        self._checkpoint: Checkpoint | None = checkpoint
        folder, fingerprint = Path(config.model), checkpoint.fingerprint()
        self.engine, self.version = self.name, transformers.__version__
        self.model = folder.resolve().name if folder.is_dir() else config.model
        # The weights in a folder may change while the cache stays.
        self.parameters = {"max_tokens": config.max_tokens, "checkpoint": fingerprint}
        self.identity = f"{folder.name}@{fingerprint} {' '.join(config.prompts)} {config.dtype}"

    def look(self, query: Query) -> Look | Failure:
        """The decoder's score of any text of a crop; there is neither a best path nor an ink."""
        if query.line.crop.size == 0:
            return Failure("vlm", "empty_crop", "the crop has no pixels")
        return Look(None, None, lambda texts: self.score(query, texts))

    def score(self, query: Query, texts: Sequence[str]) -> list[float]:
        """Natural log-probability of each text, and of stopping after it, given the crop and the blind prompt.

        The blind prompt is `glm_ocr` where that is the first one configured. Raises what the model raises when it can't
        take the crop.
        """
        kind: Kind = "glm_ocr" if self._config.prompts[0] == "glm_ocr" else "blind"
        question = Question(query.line.crop, render(kind, self._config.language, query).text)
        scores: dict[int, float] = {}
        with self._lock, torch.inference_mode():
            checkpoint = self._open()
            # The prompt with its image goes through the model once; the texts continue from its keys and values.
            inputs = self.inputs([question])
            prefix = checkpoint.model(**inputs, use_cache=True, logits_to_keep=1)
            # Image tokens share positions, so the next position is not the number of tokens: GLM keeps the difference.
            position = inputs["input_ids"].shape[1] + int(checkpoint.model.model.rope_deltas)
            ids = [checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
            for rows in _chunks(sorted(range(len(ids)), key=lambda row: len(ids[row])), self._config.batch):
                scores.update(zip(rows, self._continue(prefix, position, [ids[row] for row in rows]), strict=True))
        return [scores[row] for row in range(len(texts))]

    def close(self) -> None:
        """Free the model's memory and close the cache; a closed reader can't be asked."""
        self._cache.close()
        with self._lock:
            self._checkpoint = None
            if self._config.device.startswith("cuda"):
                torch.cuda.empty_cache()

    def _open(self) -> Checkpoint:
        if self._checkpoint is None:
            raise ReaderError(self.model, "is closed", "Open the reader again.")
        return self._checkpoint

    def ask_many(self, questions: Sequence[Question]) -> list[Answer | Failure]:
        """Answer in batches."""
        answers: dict[int, Answer | Failure] = {}
        # Like sizes together: a batch is as slow as its largest crop.
        order = sorted(range(len(questions)), key=lambda row: questions[row].pixels.size)
        for rows in _chunks(order, self._config.batch):
            with self._lock, torch.inference_mode():
                answers.update(zip(rows, self._try([questions[row] for row in rows]), strict=True))
        return [answers[row] for row in range(len(questions))]

    def _try(self, questions: Sequence[Question]) -> list[Answer | Failure]:
        """Answer a batch; where it fails, its halves, so that one bad crop costs no other its answer."""
        try:
            return list(self._generate(questions))
        except (RuntimeError, ValueError) as error:
            if len(questions) == 1:
                kind = "out_of_memory" if isinstance(error, torch.OutOfMemoryError) else "model_error"
                return [Failure("vlm", kind, f"the model could not take this crop ({first_line(error)})")]
        middle = len(questions) // 2
        return self._try(questions[:middle]) + self._try(questions[middle:])

    def inputs(self, questions: Sequence[Question]) -> dict[str, torch.Tensor]:
        """Tensors for one forward pass.

        Returns:
            `input_ids`, `attention_mask`, `mm_token_type_ids` int64 (B, n), padded on the left; `pixel_values` float32
            (patches of all crops, 3·T·P·P); `image_grid_thw` int64 (B, 3), patches in time, down and across.
        """
        checkpoint = self._open()
        crops = [checkpoint.view(question.pixels) for question in questions]
        pixels = checkpoint.images(images=crops, return_tensors="pt")
        counts = (pixels["image_grid_thw"].prod(dim=1) // checkpoint.images.merge_size**2).tolist()
        image_id = checkpoint.model.config.image_token_id
        image = checkpoint.tokenizer.convert_ids_to_tokens(image_id)
        prompts = [
            self._prompt(question).replace(image, image * count)
            for question, count in zip(questions, counts, strict=True)
        ]
        words = checkpoint.tokenizer(prompts, padding=True, return_tensors="pt", add_special_tokens=False)
        ids, mask = words["input_ids"], words["attention_mask"]
        inputs = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": (ids == image_id).long(), **pixels}
        return {name: tensor.to(checkpoint.model.device) for name, tensor in inputs.items()}

    def _prompt(self, question: Question) -> str:
        """The question as the checkpoint's chat template writes it, with one image token for the whole image."""
        content = [{"type": "image"}, {"type": "text", "text": question.plain}]
        prompt: str = self._open().tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return prompt

    def _generate(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers of one batch."""
        checkpoint = self._open()
        inputs = self.inputs(questions)
        temperatures = [question.temperature for question in questions]
        draw = Draw(checkpoint.stops, temperatures, [_seed(q) for q in questions], checkpoint.model.device)
        processors = transformers.LogitsProcessorList([draw])
        output = checkpoint.model.generate(
            **inputs, do_sample=False, max_new_tokens=self._config.max_tokens, logits_processor=processors
        )
        tokens = output[:, inputs["input_ids"].shape[1] :]
        rows = zip(tokens.tolist(), draw.chosen(tokens.shape[1]).tolist(), strict=True)
        return [self._answer(ids, scores) for ids, scores in rows]

    def _answer(self, ids: Sequence[int], scores: Sequence[float]) -> Answer:
        """An answer from generated tokens and their log-probabilities; what follows the first stop is padding."""
        checkpoint = self._open()
        length = next((index for index, token in enumerate(ids) if token in checkpoint.stops), len(ids))
        stopped = length < len(ids)
        # The stop has no text, but its probability is part of the answer's.
        texts = [*token_texts(ids[:length], checkpoint.tokenizer), *([""] if stopped else [])]
        tokens = tuple(Token(piece, min(score, 0.0)) for piece, score in zip(texts, scores, strict=False))
        text = checkpoint.tokenizer.decode(ids[:length], skip_special_tokens=False)
        return Answer(text, "stop" if stopped else "length", tokens, self.model)

    def _continue(self, prefix: Any, position: int, continuations: Sequence[Sequence[int]]) -> list[float]:
        """Log-probability of each continuation (token ids) and of stopping after it.

        `prefix` is the model's output for the prompt, `position` the rotary position of the next token.
        """
        checkpoint = self._open()
        device, stops = checkpoint.model.device, checkpoint.stops
        rows, width = len(continuations), max(map(len, continuations)) + 1
        # Padded on the right with stops: nothing looks ahead, so no mask is needed, and the first stop is the real one.
        targets = torch.tensor([[*ids, *[stops[0]] * (width - len(ids))] for ids in continuations], device=device)
        tables = log_probabilities(prefix.logits[:, -1:], stops).expand(rows, -1, -1)
        if width > 1:
            cache = copy.deepcopy(prefix.past_key_values)  # the other chunks start from it too
            cache.batch_repeat_interleave(rows)
            positions = torch.arange(position, position + width - 1, device=device).expand(3, rows, -1)
            output = checkpoint.model(input_ids=targets[:, :-1], position_ids=positions, past_key_values=cache)
            tables = torch.cat([tables, log_probabilities(output.logits, stops)], dim=1)
        chosen = tables.gather(2, targets[:, :, None])[:, :, 0]
        return [float(row[: len(ids) + 1].sum()) for row, ids in zip(chosen, continuations, strict=True)]
