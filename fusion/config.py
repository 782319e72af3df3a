"""Configuration: frozen pydantic sections, `extends`, overrides, the effective configuration and its hash.

Defaults live here and nowhere else; YAML says only what differs. `extends` names a file beside, or one that ships. Knows no engine and opens no model.

Relative paths are relative to the working directory, after `extends` to the file that extends. Secrets are given as the *name* of an environment variable.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from fusion.errors import ConfigError
from fusion.formats import Format

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""Beginning of an address such as s3://bucket; the drive of a Windows path has one letter."""


def local(path: Path) -> Path:
    """The path, its `~` expanded, of something to be written; ValueError where it is an address.

    >>> local(Path("out/pages"))
    PosixPath('out/pages')
    """
    if ADDRESS.match(str(path)):
        raise ValueError("is an address; results are written to this machine: copy them from there")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"names a home directory that is not known ({error})") from error


Written = Annotated[Path, AfterValidator(local)]
"""A file or folder that is written."""


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values can't be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class IntakeConfig(Section):
    """From files to upright pages."""

    max_file_mb: float = Field(200, gt=0, description="Largest accepted input file, MB (10⁶ bytes).")
    max_megapixels: float = Field(
        120, gt=0, description="Largest accepted page, 10⁶ px; guards against decompression bombs."
    )
    max_pages: int = Field(500, ge=1, description="Most pages read from one PDF or TIFF.")
    pdf_dpi: int = Field(200, ge=50, le=600, description="Resolution at which PDF pages are drawn, px per inch.")
    deskew: bool = Field(True, description="Turn the page so that the writing is level.")
    rectify: bool = Field(
        True, description="Straighten a page photographed at an angle when its four edges are visible."
    )
    small_side: int = Field(720, ge=0, description="Warn when the short side is under this, px.")
    blur: float = Field(
        60.0, ge=0, description="Warn when the variance of the Laplacian at strokes is under this, grey levels²."
    )
    glare: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Warn when more than this share of the page is burnt out beside paper that is not.",
    )
    contrast: float = Field(40.0, ge=0, le=255, description="Warn when paper minus ink is under this, grey levels.")
    skew: float = Field(
        1.0, ge=0, le=45, description="Warn (and turn, if `deskew`) when the writing is off level by more, degrees."
    )
    perspective: float = Field(
        0.02, ge=0, le=1, description="Warn when opposite page edges differ in length by more than this share."
    )


class OcrConfig(Section):
    """PP-OCR: finds the lines and gives every character's candidates."""

    engine: Literal["onnx", "paddle"] = Field(
        "onnx", description="Runtime: ONNX Runtime on the packaged PP-OCRv6-small weights, or PaddlePaddle."
    )
    threads: int = Field(1, ge=1, le=256, description="CPU threads of the runtime.")
    device: str = Field("cpu", description="Device: cpu; under engine paddle also gpu:0 …")
    detection_model: str = Field("PP-OCRv6_small_det", description="Name of the detection model.")
    detection_dir: Path | None = Field(
        None, description="Folder with the detection model; None: the packaged one (engine onnx)."
    )
    recognition_model: str = Field("PP-OCRv6_small_rec", description="Name of the recognition model.")
    recognition_dir: Path | None = Field(
        None, description="Folder with the recognition model; None: the packaged one (engine onnx)."
    )
    hand_model: Path | None = Field(
        None,
        description="Recogniser of Latin hands, an ONNX file as `python -m fusion.train recogniser` writes; None: the packaged one.",
    )
    detection_side: int = Field(960, ge=64, le=8000, description="Long side at which lines are looked for, px.")
    box_threshold: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Mean text probability under which a region is no line; one under 0.6 is a line if it can be read.",
    )
    top_k: int = Field(5, ge=1, le=20, description="Candidates kept per position.")
    nbest: int = Field(20, ge=1, le=200, description="Whole-line alternatives kept.")
    poor: float = Field(
        0.6,
        ge=0,
        le=1,
        description="A crop whose best path has a lower probability per character (geometric mean) is also read stretched.",
    )
    cramped: float = Field(
        1.8,
        ge=0,
        description="So is one with fewer CTC columns (8 px at height 48) of ink per character read: it was squashed.",
    )
    stretches: tuple[Annotated[float, Field(gt=0, le=10)], ...] = Field(
        (1.5, 2.25, 3.0),
        description="Horizontal factors tried for a poor crop that is an image of its own, which may have been squashed; its three most probable looks count.",
    )
    page_stretches: tuple[Annotated[float, Field(gt=1, le=10)], ...] = Field(
        (2.25,), max_length=2, description="The same for a poor line of a page, which is as wide as it was written."
    )


class NoVlm(Section):
    """No vision-language model: OCR candidates and evidence only, and the result says so."""

    engine: Literal["none"] = Field("none", description="No second reader.")


Ask = Literal["all", "doubtful", "budget", "none"]
"""Which lines a second reader is asked about."""


class _Asking(Section):
    """What every asked model needs to know."""

    prompts: tuple[Literal["blind", "informed", "glm_ocr"], ...] = Field(
        ("blind", "informed"),
        min_length=1,
        description="Prompts each crop is read with; `glm_ocr` is the fixed one GLM-OCR was trained on (free-form prompts make it loop).",
    )
    language: Literal["auto", "zh", "en"] = Field(
        "auto", description="Language of the prompts; auto follows the script of the OCR's reading."
    )
    max_tokens: int = Field(256, ge=1, le=8192, description="Longest answer to one crop, tokens.")
    attempts: int = Field(
        2, ge=1, le=5, description="Askings per crop and prompt when the answer shows a symptom (cut off, repeating …)."
    )
    ask: Ask = Field(
        "all",
        description="Lines that are read again: `all`; `doubtful`: those of which the OCR is not sure (the limit is fitted); `budget`: of these the least sure, within vlm.budget; `none`.",
    )
    budget: float = Field(
        0.4, gt=0, le=1, description="Largest share of a page's lines that are read again under `ask: budget`."
    )
    cache: Written | None = Field(None, description="SQLite file that remembers answers by content; None: no cache.")


class ServedVlm(_Asking):
    """A model behind HTTP: any OpenAI-compatible chat endpoint, or the plain inference dialect."""

    engine: Literal["served"] = Field("served", description="A model behind HTTP.")
    dialect: Literal["openai", "inference"] = Field(
        "openai",
        description="`openai`: chat completions; `inference`: POST /v1/inference {image, question} → {answer}.",
    )
    endpoints: tuple[str, ...] = Field(
        ("http://127.0.0.1:8000/v1",), min_length=1, description="Base URLs; several share the load."
    )
    allowed_hosts: tuple[str, ...] = Field((), description="Hosts other than this machine that images may be sent to.")
    model: str = Field("zai-org/GLM-4.6V-Flash", description="Model name as the endpoint knows it.")
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,39}$",  # refuses a key that is put here by mistake, without showing it
        description="Name of the environment variable that holds the key; None: no key.",
    )
    timeout: float = Field(60.0, gt=0, le=3600, description="Seconds for one request, to the last byte of its answer.")
    retries: int = Field(2, ge=0, le=10, description="Retries of a failed request, over all endpoints.")
    concurrency: int = Field(4, ge=1, le=256, description="Requests under way at once.")
    thinking: bool = Field(False, description="Let the model think aloud first.")


class LocalVlm(_Asking):
    """A GLM-V checkpoint loaded with transformers."""

    engine: Literal["local"] = Field("local", description="A checkpoint in this process.")
    model: str = Field(
        "small",
        description="`small`: the reader that ships with the package; else a checkpoint folder, or a hub name already in the local cache.",
    )
    ask: Ask = Field(
        "doubtful", description="Lines that are read again: `all`, `doubtful`, `budget` or `none`; see engine served."
    )
    device: str = Field("cpu", description="torch device: cpu, cuda, cuda:1 …")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Weight type; auto follows the checkpoint."
    )
    threads: int = Field(1, ge=1, le=256, description="CPU threads of the reader's runtime.")
    batch: int = Field(8, ge=1, le=512, description="Crops or strings per forward pass.")
    download: bool = Field(False, description="Allow a download from the model hub.")


class ReplayVlm(Section):
    """Recorded readings from a TSV file (first column `image`), one column per reader."""

    engine: Literal["replay"] = Field("replay", description="Recorded readings.")
    path: Path = Field(description="TSV file with a header; the first column is `image`.")
    column: str = Field(description="Column that holds the reading.")


class PluginVlm(Section):
    """A reader of another package, found by its entry point in the group `fusion.readers`."""

    engine: str = Field(description="Name of the entry point.")
    options: dict[str, Any] = Field({}, description="What the reader is opened with.")

    @field_validator("engine")
    @classmethod
    def _is_installed(cls, name: str) -> str:
        found = sorted({point.name for point in entry_points(group="fusion.readers")})
        if name not in found:
            near = difflib.get_close_matches(name, [*_READERS, *found], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"there is no reader {name!r}: there are {', '.join([*_READERS, *found])}{hint}")
        return name


_READERS = {"none": NoVlm, "served": ServedVlm, "local": LocalVlm, "replay": ReplayVlm}


def _reader_kind(section: Any) -> str:
    """Tag of a `vlm` section, as a mapping or a model."""
    engine = section.get("engine", "local") if isinstance(section, dict) else getattr(section, "engine", "")
    return engine if engine in _READERS else "plugin"


VlmConfig = Annotated[
    Annotated[NoVlm, Tag("none")]
    | Annotated[ServedVlm, Tag("served")]
    | Annotated[LocalVlm, Tag("local")]
    | Annotated[ReplayVlm, Tag("replay")]
    | Annotated[PluginVlm, Tag("plugin")],
    Discriminator(_reader_kind),
]


class FuseConfig(Section):
    """From readings to decisions."""

    weights: Path | None = Field(None, description="JSON file of fitted weights; None: the packaged one.")
    hypotheses: int = Field(400, ge=2, le=5000, description="Most whole-line hypotheses weighed per line.")
    alternatives: int = Field(4, ge=0, le=20, description="Alternatives kept per span.")
    languages: tuple[Literal["en", "zh"], ...] = Field(
        ("en", "zh"),
        description="Languages of prose: likely words become a little likelier where the ink leaves others open. `[]`: no language.",
    )
    language_weight: float = Field(
        1.0,
        ge=0,
        le=10,
        description="Weight of the languages, times the fitted one: the more, the more of a writer's own mistakes are mended (the curve is in docs/evaluation.md).",
    )


class ReviewConfig(Section):
    """What a person must look at."""

    max_error: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of mistakes allowed among the words that nobody is asked to look at, on average over writers; numbers and drugs, whose mistakes cost more, must be surer. What holds was measured for 0.05, 0.1, 0.2 and 0.3 (docs/trust.md): another share acts as the nearest of them below it, one under 0.05 leaves nothing alone.",
    )


class CompleteConfig(Section):
    """Completion of gaps from the sense of the sentence. Off unless a use asks for it."""

    enabled: bool = Field(False, description="Propose texts for gaps and insert them as `supplied`.")
    never: tuple[str, ...] = Field(
        (), description="Regular expressions; a proposal that matches one is never inserted, only listed."
    )
    proposals: int = Field(5, ge=1, le=20, description="Proposals asked for per gap.")
    min_confidence: float = Field(0.3, ge=0, le=1, description="A proposal under this stays a gap with alternatives.")


PROFILES = ("general", "prescription", "homework")
"""Profiles that ship."""


class DomainConfig(Section):
    """What is known about the subject beforehand."""

    profile: str = Field(
        "general",
        description="What the page is: decides what is expected, understood, checked and never completed. `general`, `prescription`, `homework`, or an entry point of the group `fusion.profiles`.",
    )
    formulary: Path | None = Field(
        None,
        description="Names to expect: text with one name a line, or CSV whose first column is `name`. Evidence, never a command.",
    )
    dose_ranges: Path | None = Field(
        None, description="CSV with drug, low, high, unit: a single dose outside is remarked (prescription)."
    )
    lookalikes: Path | None = Field(
        None,
        description="CSV without a header, in each row names that are taken for each other (LASA): shown beside a line that has one (prescription).",
    )
    most_drugs: int = Field(5, ge=1, description="More drugs than this on a page are remarked (prescription).")

    @field_validator("profile")
    @classmethod
    def _is_known(cls, name: str) -> str:
        known = [*PROFILES, *sorted({point.name for point in entry_points(group="fusion.profiles")})]
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"no profile {name!r}: there are {', '.join(known)}{hint}")
        return name


class StoreConfig(Section):
    """What readers said, kept for the next run."""

    folder: Written | None = Field(
        None, description="Folder of stored readings, found by content; None: none. May be deleted at any time."
    )


class BatchConfig(Section):
    """A run over many files."""

    inputs: tuple[str, ...] = Field(
        (),
        description="Files; folders; patterns such as scans/**/*.jpg; files that name others: .txt with a path a row, .csv or .parquet; and addresses such as s3://bucket/scans (extra `remote`).",
    )
    column: str = Field("image", description="Column of a .csv or .parquet that holds the paths.")
    output: Written = Field(Path("out"), description="Folder for the results; made if missing.")
    formats: tuple[Format, ...] = Field(
        (Format.JSON, Format.TEXT, Format.CSV),
        min_length=1,
        description="Written per page. `text` also puts the text into results.jsonl, `csv` makes records.csv of all pages.",
    )
    crop: bool = Field(False, description="Every image is one word or one line, already cut out.")
    parquet: bool = Field(False, description="Also write results.parquet, a row per page (extra `parquet`).")
    workers: int | None = Field(
        None, ge=1, le=1024, description="Processes; None: one per core, and 1 where each would load a large model."
    )
    keep: bool = Field(
        True,
        description="Keep what readers said in `store/` of the output, unless store.folder or vlm.cache say where: a changed weight then runs no reader again.",
    )
    timeout: float = Field(
        3600,
        gt=0,
        description="Seconds after which a page, or eight pages of a long document, that are still being read have failed.",
    )
    stop_after_failures: int | None = Field(
        None, ge=1, description="Stop when a reader failed as a whole on this many inputs in a row; None: never."
    )


class ExecutionConfig(Section):
    """Where the workers of a batch are."""

    engine: Literal["local", "ray"] = Field(
        "local", description="Processes of this machine, or actors of a Ray cluster (extra `ray`)."
    )
    address: str | None = Field(
        None,
        description="Address of the Ray cluster, such as `auto` or ray://head:10001; None: a cluster on this machine.",
    )


class ServeConfig(Section):
    """The service: `fusion serve`."""

    host: str = Field("127.0.0.1", description="Address to listen on; one beyond this machine needs `token_env`.")
    port: int = Field(8080, ge=1, le=65535, description="Port to listen on.")
    token_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,39}$",
        description="Name of the environment variable that holds the token which every request must bear; None: no token.",
    )
    archive: Written = Field(Path("archive.sqlite"), description="SQLite file with uploads, pages and corrections.")
    keep_days: float | None = Field(
        None, gt=0, le=36_500, description="Uploads older than this are deleted; None: kept."
    )
    workers: int = Field(1, ge=1, le=64, description="Engines, each in a process of its own.")
    queue: int = Field(16, ge=1, le=1000, description="Most files that wait for an engine; more are sent away (429).")
    max_upload_mb: float = Field(20, gt=0, le=1000, description="Largest request, MB (10⁶ bytes).")
    wait: float = Field(60, ge=0, le=3600, description="Seconds a request waits for its page before it gets a 202.")
    timeout: float = Field(300, gt=0, description="Seconds after which a file that is still being read has failed.")


class Config(Section):
    """The whole configuration."""

    intake: IntakeConfig = Field(IntakeConfig(), description="Files to pages.")
    ocr: OcrConfig = Field(OcrConfig(), description="Lines and candidates.")
    vlm: VlmConfig = Field(LocalVlm(), description="The second reader.")
    fuse: FuseConfig = Field(FuseConfig(), description="Decisions.")
    review: ReviewConfig = Field(ReviewConfig(), description="Who looks at what.")
    complete: CompleteConfig = Field(CompleteConfig(), description="Gaps.")
    domain: DomainConfig = Field(DomainConfig(), description="Subject.")
    store: StoreConfig = Field(StoreConfig(), description="Stored readings.")
    batch: BatchConfig = Field(BatchConfig(), description="Many files.")
    execution: ExecutionConfig = Field(ExecutionConfig(), description="Workers of a batch.")
    serve: ServeConfig = Field(ServeConfig(), description="The service.")

    @model_validator(mode="before")
    @classmethod
    def _name_the_reader(cls, data: Any) -> Any:
        """A `vlm` section that names no engine means the default one: `vlm: {model: zai-org/GLM-OCR}` is enough."""
        if isinstance(data, dict) and isinstance(data.get("vlm"), dict):
            return {**data, "vlm": {"engine": _DEFAULT_ENGINES["vlm"], **data["vlm"]}}
        return data

    @model_validator(mode="after")
    def _check_runtime(self) -> Config:
        if self.ocr.engine == "onnx" and not self.ocr.device.startswith("cpu"):
            raise ValueError("ocr.device other than cpu needs ocr.engine: paddle")
        return self

    def decisive(self) -> dict[str, Any]:
        """What decides a result, as JSON values: not where things are kept, nor how many work at once."""
        batch = set(BatchConfig.model_fields) - {"crop"}
        free: Any = {"batch": batch, "store": True, "execution": True, "serve": True, "vlm": {"cache", "concurrency"}}
        return self.model_dump(mode="json", exclude=free)

    @property
    def hash(self) -> str:
        """SHA-256 over what decides a result, in canonical JSON."""
        text = json.dumps(self.decisive(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_yaml(self) -> str:
        """The effective configuration, every key spelled out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


MOST_KEYS = 1000
"""Keys of one mapping of a configuration file."""
_DEFAULT_ENGINES = {"ocr": OcrConfig().engine, "vlm": LocalVlm().engine}


def layered(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """Child over parent, key by key; a section whose `engine` changes is replaced, since the old engine's keys mean nothing."""
    merged = dict(parent)
    for key, value in child.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            switched = "engine" in value and value["engine"] != old.get("engine", _DEFAULT_ENGINES.get(key))
            merged[key] = dict(value) if switched else layered(old, value)
        else:
            merged[key] = value
    return merged


class _Loader(yaml.SafeLoader):
    """Safe YAML in which merge keys (`<<`) that name each other can't make gigabytes of a few lines."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put merged keys into a mapping; each mapping is merged before those that name it."""
        super().flatten_mapping(node)
        if len(node.value) > MOST_KEYS:
            raise yaml.constructor.ConstructorError(None, None, f"more than {MOST_KEYS} keys", node.start_mark)


def _read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """One YAML file over the file that it extends."""
    path = path.resolve()
    if path in seen:
        raise ConfigError(path, "extends itself", f"Break the circle: {' → '.join(p.name for p in (*seen, path))}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(
            path, f"can't be read ({error.strerror})", "Check the path after --config or `extends`."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            path, f"is not valid YAML ({error})", "Mend the file; `fusion config check FILE` tries it."
        ) from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(path, "holds no sections", "A configuration is a mapping such as `ocr: {threads: 4}`.")
    parent = content.pop("extends", None)
    if parent is None:
        return content
    beside = path.parent / str(parent)
    extended = beside if beside.is_file() else packaged_configs().get(str(parent), beside)
    return layered(_read_yaml(extended, (*seen, path)), content)


def _override(settings: dict[str, Any], text: str) -> dict[str, Any]:
    """Apply one `a.b=value`; the value is YAML, so `true`, `3` and `[a, b]` mean what they say."""
    key, equals, value = text.partition("=")
    if not equals or not all(part.isidentifier() for part in key.split(".")):
        raise ConfigError(f"--set {text}", "is not of the form section.key=value", "Example: --set ocr.threads=4")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}", f"has a value that is not YAML ({error})", "Quote the value.") from error
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return layered(settings, nested)


def packaged_configs() -> dict[str, Path]:
    """Name → file of the configurations that ship: in the package, or beside it where it runs from its sources."""
    here = Path(__file__).parent
    folder = next((f for f in (here / "configs", here.parent / "configs") if f.is_dir()), here / "configs")
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def _found(path: str | Path) -> Path:
    """A file as given, or the one that ships under this name."""
    shipped = packaged_configs()
    if not Path(path).is_file() and str(path) in shipped:
        return shipped[str(path)]
    if not Path(path).is_file():
        near = difflib.get_close_matches(Path(path).stem, shipped, 1)
        hint = f"Did you mean {near[0]}? " if near else ""
        way = f"{hint}Give a file, or one of the names that ship: {', '.join(shipped)}."
        raise ConfigError(path, "there is no such configuration", way)
    return Path(path)


def _problem(place: tuple[int | str, ...], kind: str, message: str) -> str:
    """One row of a refused configuration; of an unknown key, what it may have meant."""
    parts = [str(part) for part in place if str(part) not in (*_READERS, "plugin")]
    if kind == "extra_forbidden":
        section: Any = Config
        for part in place[:-1]:
            section = _READERS.get(str(part)) or _section(section, str(part))
        known = list(section.model_fields) if section is not None else []
        near = difflib.get_close_matches(parts[-1], known, 1)
        message = "there is no such key" + (f"; did you mean {'.'.join([*parts[:-1], near[0]])}?" if near else "")
    return f"{'.'.join(parts)}: {message.removeprefix('Value error, ')}"


def _section(model: Any, name: str) -> Any:
    field = model.model_fields.get(name) if model is not None else None
    kind = field.annotation if field is not None else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else model if name == "vlm" else None


def load_config(path: str | Path | Config | None = None, overrides: Sequence[str] = ()) -> Config:
    """Load a configuration.

    Args:
        path: YAML file; the name of one that ships, such as `prescription`; a configuration; or None for the defaults.
        overrides: `section.key=value` strings, applied in order after the file.

    Raises:
        ConfigError: with every offending key, what is wrong with it and what is allowed.

    >>> load_config(overrides=["ocr.threads=4"]).ocr.threads
    4
    """
    if isinstance(path, Config):
        settings, path = path.model_dump(), None
    else:
        settings = _read_yaml(_found(path)) if path is not None else {}
    # An engine override comes first: it replaces its section, and must not throw away its sister overrides.
    for text in sorted(overrides, key=lambda text: ".engine=" not in text):
        settings = _override(settings, text)
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        problems = "; ".join(_problem(item["loc"], item["type"], item["msg"]) for item in error.errors())
        raise ConfigError(
            path or "configuration", problems, "`fusion config show` lists every key with its range."
        ) from error
