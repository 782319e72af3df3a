"""A GLM-V checkpoint in this process: GLM-4.1V, GLM-4.6V-Flash or GLM-OCR, with torch and transformers (extra `glm`).

Knows how a crop and a question become tokens, and tokens an answer or a probability; knows no file of a checkpoint, no
prompt wording, no acceptance and no retry policy. Importing this file imports torch and transformers: `open_reader` does
so only when this reader is configured.

The tokenizer and the image processor are joined here, because transformers' own GLM processor insists on a video
processor, which needs torchvision. One path, then, with and without it; the test
`test_inputs_are_those_of_the_checkpoints_own_processor` holds the two together.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import LogitsProcessor, LogitsProcessorList

from fusion.config import LocalVlm
from fusion.errors import ReaderError
from fusion.ink import image_sha256
from fusion.page import Failure, Reading, Token
from fusion.vlm.asking import Model, Question, ask_cached, read_all
from fusion.vlm.cache import AnswerCache, answer_key
from fusion.vlm.checkpoint import Checkpoint, fingerprint, first_line, load
from fusion.vlm.prompts import Kind, render
from fusion.vlm.protocol import Answer, Look, Query

__all__ = ["LocalReader", "load"]

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def log_probabilities(logits: torch.Tensor, stops: Sequence[int]) -> torch.Tensor:
    """Natural log-probabilities in float32, (…, V) to (…, V).

    Where several tokens end an answer, ending is one event: each of them gets the sum of their probabilities.
    """
    table = logits.float().log_softmax(-1)
    table[..., list(stops)] = table[..., list(stops)].logsumexp(-1, keepdim=True)
    return table


class Draw(LogitsProcessor):
    """Lets `generate` draw each row on its own, and notes the log-probabilities of what was chosen.

    With Gumbel noise times the temperature added, the greedy choice is a draw from the softmax at that temperature (the
    Gumbel-max trick). The noise of a row comes from its own seed, so an answer depends neither on its company in the
    batch nor on what was asked before. Noting one (B, V) table at a time spares the (tokens, B, V) of `output_logits`.
    """

    def __init__(
        self, stops: Sequence[int], temperatures: Sequence[float], seeds: Sequence[int], device: torch.device
    ) -> None:
        self._stops = stops
        self._temperatures = torch.tensor(temperatures, device=device)[:, None]
        self._warm = any(temperatures)
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._table: torch.Tensor | None = None
        self._noted: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Take the logits of the next token, float32 (B, V), and return those to choose the best from."""
        self._note(input_ids[:, -1])
        self._table = log_probabilities(scores, self._stops)
        if not self._warm:
            return scores
        noise = torch.stack([torch.empty_like(scores[0]).exponential_(generator=g) for g in self._generators])
        return scores - self._temperatures * noise.clamp_min(torch.finfo(noise.dtype).tiny).log()

    def chosen(self, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probabilities, float32 (B, n), of the generated tokens, int64 (B, n)."""
        if len(self._noted) < tokens.shape[1]:  # no later step has seen the last token
            self._note(tokens[:, -1])
        return torch.stack(self._noted[: tokens.shape[1]], dim=1)

    def _note(self, last: torch.Tensor) -> None:
        if self._table is not None:
            self._noted.append(self._table.gather(1, last[:, None])[:, 0])


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
    """The same question about the same pixels is drawn the same way, today and tomorrow."""
    key = answer_key(image_sha256(question.pixels), question.text, "", {"temperature": question.temperature})
    return int(key[:15], 16)


def _chunks(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (order[start : start + size] for start in range(0, len(order), size))


class LocalReader:
    """Reads crops with a GLM-V checkpoint on this machine. May be used from several threads; they take turns."""

    name = "local"

    def __init__(self, config: LocalVlm, cache: AnswerCache, checkpoint: Checkpoint) -> None:
        """Take over a loaded checkpoint."""
        self._config = config
        self._cache = cache
        self._lock = threading.Lock()
        self._checkpoint: Checkpoint | None = checkpoint
        folder = Path(config.model)
        self.identity = f"{folder.name}@{fingerprint(checkpoint)} {' '.join(config.prompts)} {config.dtype}"
        self._model = Model(
            engine=self.name,
            version=transformers.__version__,
            name=folder.resolve().name if folder.is_dir() else config.model,
            # A folder's name says little about what is in it, and a cache may outlive a training run.
            parameters={"max_tokens": config.max_tokens, "checkpoint": fingerprint(checkpoint)},
            ask_many=self._ask_many,
        )

    def read(self, queries: Sequence[Query]) -> list[tuple[Reading | Failure, ...]]:
        """Read each crop with each configured prompt, in batches."""
        return read_all(queries, self._config, self._model, self._cache)

    def look(self, query: Query) -> Look | Failure:
        """Its decoder's word on any text of a crop; it has no look at the strokes of its own."""
        if query.line.crop.size == 0:
            return Failure("vlm", "empty_crop", "the crop has no pixels")
        return Look(None, None, lambda texts: self.score(query, texts))

    def ask(self, pixels: NDArray[np.uint8], question: str) -> Answer | Failure:
        """Free question about an image, answered greedily."""
        if pixels.size == 0:
            return Failure("vlm", "empty_crop", "the image has no pixels")
        return ask_cached([Question(pixels, question)], self._model, self._cache)[0]

    def score(self, query: Query, texts: Sequence[str]) -> list[float]:
        """Natural log-probability of each text, and of stopping after it, given the crop and the blind prompt.

        The blind prompt is `glm_ocr` where that is the first one configured. Raises what the model raises when it can't
        take the crop.
        """
        kind: Kind = "glm_ocr" if self._config.prompts[0] == "glm_ocr" else "blind"
        question = Question(query.line.crop, render(kind, self._config.language, query).text)
        with self._lock, torch.inference_mode():
            return self._score(question, texts)

    def close(self) -> None:
        """Free the model's memory and close the cache; a closed reader can't be asked."""
        self._cache.close()
        with self._lock:
            self._checkpoint = None
            if self._config.device.startswith("cuda"):
                torch.cuda.empty_cache()

    def _open(self) -> Checkpoint:
        if self._checkpoint is None:
            raise ReaderError(self._model.name, "is closed", "Open the reader again.")
        return self._checkpoint

    def _ask_many(self, questions: Sequence[Question]) -> list[Answer | Failure]:
        """One answer or failure per question, in order."""
        answers: dict[int, Answer | Failure] = {}
        # Like sizes together: a batch is as slow as its largest crop.
        order = sorted(range(len(questions)), key=lambda row: questions[row].pixels.size)
        for rows in _chunks(order, self._config.batch):
            with self._lock, torch.inference_mode():
                answers.update(zip(rows, self._try([questions[row] for row in rows]), strict=True))
        return [answers[row] for row in range(len(questions))]

    def _try(self, questions: Sequence[Question]) -> list[Answer | Failure]:
        """One batch; where it fails, its halves, so that one bad crop or too large a batch costs nobody else an answer."""
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
        output = checkpoint.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=self._config.max_tokens,
            logits_processor=LogitsProcessorList([draw]),
        )
        tokens = output[:, inputs["input_ids"].shape[1] :]
        rows = zip(tokens.tolist(), draw.chosen(tokens).tolist(), strict=True)
        return [self._answer(ids, scores) for ids, scores in rows]

    def _answer(self, ids: Sequence[int], scores: Sequence[float]) -> Answer:
        """An answer from generated tokens and their log-probabilities; what follows the first stop is padding."""
        checkpoint = self._open()
        length = next((index for index, token in enumerate(ids) if token in checkpoint.stops), len(ids))
        stopped = length < len(ids)
        # The stop is no text, but that the model stopped here is part of how sure it is.
        texts = [*token_texts(ids[:length], checkpoint.tokenizer), *([""] if stopped else [])]
        text = checkpoint.tokenizer.decode(ids[:length], skip_special_tokens=False)
        tokens = tuple(Token(piece, min(score, 0.0)) for piece, score in zip(texts, scores, strict=False))
        return Answer(text, "stop" if stopped else "length", tokens, self._model.name)

    def _score(self, question: Question, texts: Sequence[str]) -> list[float]:
        """The prompt with its image goes through the model once; the texts continue from its keys and values."""
        checkpoint = self._open()
        inputs = self.inputs([question])
        prefix = checkpoint.model(**inputs, use_cache=True, logits_to_keep=1)
        # Image tokens share positions, so the next position is not the number of tokens: GLM keeps the difference.
        position = inputs["input_ids"].shape[1] + int(checkpoint.model.model.rope_deltas)
        ids = [checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        scores: dict[int, float] = {}
        for rows in _chunks(sorted(range(len(ids)), key=lambda row: len(ids[row])), self._config.batch):
            scores.update(zip(rows, self._continue(prefix, position, [ids[row] for row in rows]), strict=True))
        return [scores[row] for row in range(len(ids))]

    def _continue(self, prefix: Any, position: int, continuations: Sequence[Sequence[int]]) -> list[float]:
        """Log-probability of each continuation and of stopping after it.

        Args:
            prefix: the model's output for the prompt, batch of one, with its cache.
            position: rotary position of the first token after the prompt.
            continuations: token ids, without the stop.
        """
        checkpoint = self._open()
        device = checkpoint.model.device
        rows, width = len(continuations), max(map(len, continuations)) + 1
        # Padded on the right with stops: nothing looks ahead, so no mask is needed, and the first stop is the real one.
        targets = torch.tensor(
            [[*ids, *[checkpoint.stops[0]] * (width - len(ids))] for ids in continuations], device=device
        )
        tables = log_probabilities(prefix.logits[:, -1:], checkpoint.stops).expand(rows, -1, -1)
        if width > 1:
            cache = copy.deepcopy(prefix.past_key_values)  # the other chunks start from it too
            cache.batch_repeat_interleave(rows)
            positions = torch.arange(position, position + width - 1, device=device).expand(3, rows, -1)
            output = checkpoint.model(input_ids=targets[:, :-1], position_ids=positions, past_key_values=cache)
            tables = torch.cat([tables, log_probabilities(output.logits, checkpoint.stops)], dim=1)
        chosen = tables.gather(2, targets[:, :, None])[:, :, 0]
        return [float(row[: len(ids) + 1].sum()) for row, ids in zip(chosen, continuations, strict=True)]
