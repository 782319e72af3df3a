"""Configuration: defaults, inheritance, overrides, and messages that name the offending key."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from fusion.config import (
    Config,
    LocalVlm,
    NoVlm,
    OcrConfig,
    PluginVlm,
    ReplayVlm,
    Section,
    ServedVlm,
    load_config,
    packaged_configs,
)
from fusion.errors import ConfigError

CONFIGS = Path(__file__).parent.parent / "configs"
OTHER_SCHEMA = ("eval", "train")
YAMLS = sorted(
    path
    for path in CONFIGS.rglob("*.y*ml")
    if path.suffix in (".yaml", ".yml") and path.relative_to(CONFIGS).parts[0] not in OTHER_SCHEMA
)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def sections(base: type[BaseModel] = Section) -> list[type[BaseModel]]:
    return [found for kind in base.__subclasses__() for found in (kind, *sections(kind))]


FIELDS = [(kind, name) for kind in sections() for name in kind.model_fields]


# --- defaults -----------------------------------------------------------------------------------------------------


def test_defaults_need_no_network_no_gpu_and_no_other_model_than_the_packaged_ones() -> None:
    config = load_config()
    assert config == Config()
    assert isinstance(config.vlm, LocalVlm)
    assert (config.vlm.model, config.vlm.device, config.vlm.ask) == ("small", "cpu", "doubtful")
    assert (config.ocr.engine, config.ocr.device) == ("onnx", "cpu")
    assert config.complete.enabled is False
    assert config.domain.formulary is None


def test_remote_and_costly_things_are_off_by_default() -> None:
    assert ServedVlm().allowed_hosts == ()
    assert all("127.0.0.1" in url for url in ServedVlm().endpoints)
    assert LocalVlm().download is False


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_every_field_has_a_description(kind: type[BaseModel], name: str) -> None:
    description = kind.model_fields[name].description
    assert description, f"{kind.__name__}.{name} has no description"
    assert description.endswith((".", "…"))


@pytest.mark.parametrize(
    "kind", [kind for kind in sections() if kind not in (ReplayVlm, PluginVlm)], ids=lambda kind: kind.__name__
)
def test_defaults_lie_in_their_own_range(kind: type[BaseModel]) -> None:
    kind.model_validate(kind().model_dump())  # pydantic does not check defaults by itself


def test_nothing_can_be_changed_after_loading() -> None:
    config = load_config(overrides=["vlm.engine=served"])
    for section, name in ((config, "ocr"), (config.ocr, "threads"), (config.vlm, "model"), (config.intake, "blur")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, 1)


# --- files --------------------------------------------------------------------------------------------------------


def test_a_file_says_only_what_differs(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "a.yaml", "ocr: {threads: 3}\n"))
    assert config.ocr == OcrConfig(threads=3)
    assert config.intake == Config().intake


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "---\n"])
def test_an_empty_file_is_the_defaults(tmp_path: Path, content: str) -> None:
    assert load_config(write(tmp_path, "a.yaml", content)) == Config()


def test_extends_a_chain_of_files_relative_to_each(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "ocr: {threads: 3, nbest: 7}\nfuse: {hypotheses: 50}\n")
    write(tmp_path, "sub/middle.yaml", "extends: ../base.yaml\nocr: {nbest: 8, top_k: 2}\n")
    config = load_config(write(tmp_path, "sub/leaf.yaml", "extends: middle.yaml\nocr: {top_k: 4}\n"))
    assert (config.ocr.threads, config.ocr.nbest, config.ocr.top_k, config.fuse.hypotheses) == (3, 8, 4, 50)


def test_a_list_of_the_child_replaces_that_of_the_parent(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "ocr: {stretches: [1.5, 2.0]}\n")
    assert load_config(write(tmp_path, "leaf.yaml", "extends: base.yaml\nocr: {stretches: [3]}\n")).ocr.stretches == (
        3,
    )


@pytest.mark.parametrize("names", [("a.yaml",), ("a.yaml", "b.yaml"), ("a.yaml", "b.yaml", "c.yaml")])
def test_a_circle_is_named(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name, parent in zip(names, (*names[1:], names[0]), strict=True):
        write(tmp_path, name, f"extends: {parent}\n")
    with pytest.raises(ConfigError, match="extends itself") as caught:
        load_config(tmp_path / names[0])
    assert all(name in str(caught.value) for name in names)


def test_two_children_of_one_parent_are_no_circle(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "ocr: {threads: 3}\n")
    for name in ("a.yaml", "b.yaml"):
        assert load_config(write(tmp_path, name, "extends: base.yaml\n")).ocr.threads == 3


def test_a_missing_file_and_a_missing_parent_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"gone\.yaml.*can't be read.*extends"):
        load_config(write(tmp_path, "a.yaml", "extends: gone.yaml\n"))


def test_a_copy_of_a_configuration_that_ships_works_anywhere(tmp_path: Path) -> None:
    for name, file in packaged_configs().items():
        copy = write(tmp_path / name, file.name, file.read_text(encoding="utf-8"))
        assert load_config(copy, ["batch.inputs=[a]"]) == load_config(file, ["batch.inputs=[a]"])


@pytest.mark.parametrize("content", ["- ocr\n", "just words\n", "42\n", "[]\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigError, match="holds no sections"):
        load_config(write(tmp_path, "a.yaml", content))


@pytest.mark.parametrize("content", [b"ocr: {threads: 3", b"a: b: c", b"ocr:\n\t- x", b"\xff\xfe\x00 ocr", b"a: \xe9"])
def test_bad_yaml_is_refused_with_the_file_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        load_config(path)
    assert caught.value.subject == str(path)


def test_yaml_can_make_no_objects(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(write(tmp_path, "a.yaml", "ocr: !!python/object/apply:os.getcwd []\n"))


def test_yaml_can_neither_swell_nor_end_the_program(tmp_path: Path) -> None:
    doubling = "".join(f"k{n}: &k{n} {{<<: [*k{n - 1}, *k{n - 1}], v{n}: 1}}\n" for n in range(1, 60))
    for content in ("k0: &k0 {x: 1}\n" + doubling, "a: " + "[" * 3000 + "]" * 3000):
        with pytest.raises(ConfigError, match="not valid YAML"):
            load_config(write(tmp_path, "a.yaml", content))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_shipped_file_loads_and_says_something(path: Path) -> None:
    config = load_config(path)
    own = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for name, section in own.items():
        for key in section if name != "extends" else ():
            assert hasattr(getattr(config, name), key)


# --- sections with engines ----------------------------------------------------------------------------------------


def test_another_engine_replaces_its_section(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "vlm: {engine: served, model: a-model, timeout: 5, attempts: 3}\n")
    config = load_config(write(tmp_path, "leaf.yaml", "extends: base.yaml\nvlm: {engine: local, device: cuda}\n"))
    assert config.vlm == LocalVlm(device="cuda")  # neither model nor attempts came along


def test_the_same_engine_merges_its_section(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "vlm: {engine: served, model: a-model}\n")
    config = load_config(write(tmp_path, "leaf.yaml", "extends: base.yaml\nvlm: {engine: served, timeout: 5}\n"))
    assert config.vlm == ServedVlm(model="a-model", timeout=5)
    config = load_config(write(tmp_path, "leaf.yaml", "extends: base.yaml\nvlm: {timeout: 5}\n"))
    assert config.vlm == ServedVlm(model="a-model", timeout=5)


def test_naming_the_engine_that_is_the_default_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "ocr: {threads: 7}\n")
    config = load_config(write(tmp_path, "leaf.yaml", "extends: base.yaml\nocr: {engine: onnx, nbest: 5}\n"))
    assert (config.ocr.threads, config.ocr.nbest) == (7, 5)


def test_an_engine_can_be_switched_off_again(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", "vlm: {engine: served, model: a-model}\n")
    assert load_config(base, ["vlm.engine=none"]).vlm == NoVlm()


def test_replay_needs_its_file_and_column() -> None:
    with pytest.raises(ConfigError, match=r"vlm\.path.*vlm\.column"):
        load_config(overrides=["vlm.engine=replay"])
    config = load_config(overrides=["vlm.column=qwen", "vlm.engine=replay", "vlm.path=readings.tsv"])
    assert config.vlm == ReplayVlm(path=Path("readings.tsv"), column="qwen")


def test_an_unknown_engine_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="served") as caught:
        load_config(overrides=["vlm.engine=telepathy"])
    assert all(name in str(caught.value) for name in ("vlm", "telepathy", "none", "local", "replay"))


# --- overrides ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    list(itertools.permutations(["vlm.engine=served", "vlm.model=a-model", "vlm.timeout=5"])),
    ids=lambda overrides: "-".join(text.split("=")[0].split(".")[1] for text in overrides),
)
def test_an_engine_override_never_throws_its_sisters_away(overrides: tuple[str, ...], tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", "vlm: {engine: local, device: cuda}\n")
    assert load_config(base, overrides).vlm == ServedVlm(model="a-model", timeout=5)


def test_overrides_win_over_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "ocr: {threads: 3, nbest: 9}\n")
    config = load_config(path, ["ocr.threads=4", "ocr.threads=5"])
    assert (config.ocr.threads, config.ocr.nbest) == (5, 9)


def test_overrides_speak_yaml() -> None:
    config = load_config(
        overrides=[
            "complete.enabled=true",
            "complete.never=['\\d+ mg', Napa]",
            "ocr.stretches=[1.5, 2]",
            "intake.deskew=no",
            "domain.formulary=null",
            "review.max_error=1e-1",
            "vlm={engine: local, model: some=thing}",
        ]
    )
    assert config.complete.enabled is True
    assert config.complete.never == (r"\d+ mg", "Napa")
    assert config.ocr.stretches == (1.5, 2.0)
    assert config.intake.deskew is False
    assert config.domain.formulary is None
    assert config.review.max_error == 0.1
    assert config.vlm == LocalVlm(model="some=thing")


@pytest.mark.parametrize("text", ["ocr.threads", "=4", ".=4", "ocr..threads=4", "ocr threads=4", "ocr.2=4", ""])
def test_an_override_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        load_config(overrides=[text])


def test_an_override_whose_value_is_no_yaml_is_refused() -> None:
    with pytest.raises(ConfigError, match="not YAML"):
        load_config(overrides=["complete.never=[a"])


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("ocr.thread=4", "ocr.thread: "),
        ("orc.threads=4", "orc: "),
        ("ocr.threads.many=4", "ocr.threads: "),
        ("intake.extends=a", "intake.extends: "),
        ("fuse.weight=1", "fuse.weight: "),
        ("vlm={engine: none, model: a-model}", "vlm.model: "),
    ],
)
def test_an_unknown_key_is_named(override: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[override])
    assert caught.value.problem.startswith(named)
    assert "fusion config show" in caught.value.way_out


def test_a_section_of_the_second_reader_that_names_no_engine_is_the_local_one(tmp_path: Path) -> None:
    expected = LocalVlm(model="a-model")
    assert load_config(overrides=["vlm.model=a-model"]).vlm == expected
    assert load_config(write(tmp_path, "a.yaml", "vlm: {model: a-model}\n")).vlm == expected
    assert Config.model_validate({"vlm": {"model": "a-model"}}).vlm == expected
    assert Config.model_validate({"vlm": {}}).vlm == LocalVlm()


def test_naming_the_local_engine_throws_none_of_its_keys_away(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "vlm: {model: a-model}\n")
    config = load_config(write(tmp_path, "leaf.yaml", "extends: base.yaml\nvlm: {engine: local, device: cuda}\n"))
    assert config.vlm == LocalVlm(model="a-model", device="cuda")


def test_a_key_of_another_engine_is_unknown_to_the_local_one() -> None:
    with pytest.raises(ConfigError, match=r"vlm\.endpoints"):
        load_config(overrides=["vlm.endpoints=['http://127.0.0.1:1/v1']"])


@pytest.mark.parametrize("engine", [ServedVlm, LocalVlm])
def test_lines_are_asked_about_all_or_doubtful_and_nothing_else(engine: type[ServedVlm] | type[LocalVlm]) -> None:
    asks = {"all", "doubtful", "budget", "none"}
    assert {engine(ask=ask).ask for ask in asks} == asks  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="doubtful"):
        engine(ask="some")  # type: ignore[arg-type]
    assert (ServedVlm().ask, LocalVlm().ask) == ("all", "doubtful")


@pytest.mark.parametrize("address", ["memory://out", "s3://bucket/out", "s3:/bucket", "file:///tmp/out"])
@pytest.mark.parametrize("key", ["batch.output", "store.folder", "vlm.cache", "serve.archive"])
def test_what_is_written_is_written_to_this_machine(key: str, address: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: .*copy them from there"):
        load_config(overrides=[f"{key}={address}"])


def test_a_home_directory_is_expanded_and_other_paths_stay() -> None:
    assert load_config(overrides=["batch.output=~/out"]).batch.output == Path.home() / "out"
    assert load_config(overrides=["batch.output=C:/out"]).batch.output == Path("C:/out")
    with pytest.raises(ConfigError, match="home directory"):
        load_config(overrides=["batch.output=~nobody-of-that-name/out"])


@pytest.mark.parametrize(
    ("override", "limit"),
    [
        ("ocr.threads=0", "greater than or equal to 1"),
        ("ocr.box_threshold=1.01", "less than or equal to 1"),
        ("ocr.poor=-0.1", "greater than or equal to 0"),
        ("intake.pdf_dpi=601", "less than or equal to 600"),
        ("intake.max_file_mb=0", "greater than 0"),
        ("intake.blur=.nan", "greater than or equal to 0"),
        ("fuse.hypotheses=1", "greater than or equal to 2"),
        ("ocr.threads=many", "integer"),
        ("ocr.engine=tesseract", "'onnx' or 'paddle'"),
        ("ocr=fast", "dictionary"),
    ],
)
def test_a_value_out_of_range_names_key_and_limit(override: str, limit: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[override])
    assert f"{override.split('=')[0]}: " in caught.value.problem
    assert limit in caught.value.problem


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigError, match=r"ocr\.threads.*; .*fuse\.hypotheses"):
        load_config(overrides=["ocr.threads=0", "fuse.hypotheses=0"])


def test_an_accelerator_needs_the_paddle_runtime() -> None:
    with pytest.raises(ConfigError, match=r"ocr\.engine: paddle"):
        load_config(overrides=["ocr.device=gpu:0"])
    assert load_config(overrides=["ocr.device=gpu:0", "ocr.engine=paddle"]).ocr.device == "gpu:0"


# --- hash and YAML ------------------------------------------------------------------------------------------------

DEFAULT = Config()
LEAVES = [(name, key) for name in Config.model_fields for key in type(getattr(DEFAULT, name)).model_fields]


def test_hash_is_that_of_the_effective_values_not_of_the_way_there(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "fuse: {hypotheses: 50}\nocr: {threads: 3, engine: onnx}\n")
    same = load_config(overrides=["ocr.threads=3", "fuse.hypotheses=50"])
    assert load_config(path).hash == same.hash
    assert len(same.hash) == 64
    assert Config().hash == load_config().hash


@pytest.mark.filterwarnings("ignore:Pydantic serializer")
def test_hash_changes_with_every_key_that_decides_a_result_and_with_no_other() -> None:
    hashes = [DEFAULT.hash]
    for name, key in LEAVES:
        section = getattr(DEFAULT, name).model_copy(update={key: "changed"})
        hashes.append(DEFAULT.model_copy(update={name: section}).hash)
    free = ("batch", "store", "execution", "serve")
    places = sum((name in free and key != "crop") or key == "cache" for name, key in LEAVES)
    assert len(set(hashes)) == len(LEAVES) - places + 1


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("ocr.threds=4", "ocr.threads"),
        ("oct.threads=4", "ocr"),
        ("vlm.promts=[blind]", "vlm.prompts"),
        ("vlm.engin=none", "vlm.engine"),
        ("domain.profile=perscription", "prescription"),
    ],
)
def test_a_typo_is_told_what_it_may_have_meant(override: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"did you mean {re.escape(meant)}\?"):
        load_config(overrides=[override])


def test_a_configuration_that_ships_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("prescription").domain.profile == "prescription"
    write(tmp_path, "prescription", "domain: {profile: homework}\n")
    assert load_config("prescription").domain.profile == "homework"  # a file of one's own comes first


WORDS = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=12)  # PyYAML itself loses U+0085


@st.composite
def settings_of_a_run(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "ocr": {
            "threads": draw(st.integers(1, 256)),
            "box_threshold": draw(st.floats(0, 1)),
            "stretches": draw(st.lists(st.floats(1, 4), max_size=4)),
            "recognition_model": draw(WORDS),
        },
        "vlm": draw(
            st.sampled_from(
                [
                    {"engine": "none"},
                    {"engine": "served", "endpoints": ["http://a/v1", "http://b/v1"], "api_key_env": "KEY"},
                    {"engine": "local", "prompts": ["glm_ocr"]},
                    {"engine": "replay", "path": "readings.tsv", "column": "yes"},
                ]
            )
        ),
        "complete": {"enabled": draw(st.booleans()), "never": draw(st.lists(WORDS, max_size=3))},
        "domain": {"formulary": draw(st.sampled_from([None, "药名.txt"]))},
    }


@settings(deadline=None)
@given(settings_of_a_run())
def test_effective_configuration_survives_yaml(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]) -> None:
    config = Config.model_validate(tree)
    path = tmp_path_factory.getbasetemp() / "effective.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    again = load_config(path)
    assert again == config
    assert again.hash == config.hash


def test_effective_yaml_spells_out_every_key() -> None:
    tree = yaml.safe_load(DEFAULT.to_yaml())
    assert {(name, key) for name in tree for key in tree[name]} == set(LEAVES)
