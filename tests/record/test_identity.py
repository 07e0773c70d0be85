"""Digests that name a model."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from grpo_audit.errors import ModelError
from grpo_audit.record.identity import chat_template, model_identity, parameter_count, weights_digest

TENSORS = {"a": ("F32", [2], struct.pack("<2f", 1.0, 2.0)), "b": ("BF16", [1, 2], b"\x80\x3f\x00\x40")}


def write_safetensors(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    """Written by hand, so that the reader is checked against the format and not against a library's own reader."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with two tensors."""
    write_safetensors(tmp_path / "model.safetensors", TENSORS)
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def test_weights_digest_does_not_depend_on_how_tensors_are_cut_into_files(folder: Path) -> None:
    """One file or two, in any order: the same tensors have the same digest."""
    whole = weights_digest(folder)
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model-2.safetensors", {"a": TENSORS["a"]})
    write_safetensors(folder / "model-1.safetensors", {"b": TENSORS["b"]})
    assert weights_digest(folder) == whole


@pytest.mark.parametrize(
    "changed",
    [
        {"a": ("F32", [2], struct.pack("<2f", 1.0, 2.5)), "b": TENSORS["b"]},
        {"a": ("F32", [2, 1], TENSORS["a"][2]), "b": TENSORS["b"]},
        {"a": ("I32", [2], TENSORS["a"][2]), "b": TENSORS["b"]},
        {"c": TENSORS["a"], "b": TENSORS["b"]},
        {"a": TENSORS["a"]},
    ],
    ids=["value", "shape", "dtype", "name", "missing"],
)
def test_weights_digest_sees_every_change(folder: Path, changed: dict[str, tuple[str, list[int], bytes]]) -> None:
    """A changed value, shape, dtype, name or a missing tensor changes the digest."""
    before = weights_digest(folder)
    write_safetensors(folder / "model.safetensors", changed)
    assert weights_digest(folder) != before


def test_parameters_are_counted_as_stored(folder: Path) -> None:
    """Elements of all shapes are summed."""
    assert parameter_count(folder) == 4


def test_a_cut_weights_file_is_named(folder: Path) -> None:
    """A safetensors file that lost its end is an error that names the file."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ModelError, match=r"model\.safetensors is cut short"):
        weights_digest(folder)


def test_a_pickle_is_never_taken_for_weights(folder: Path) -> None:
    """A folder with only pickled weights is refused, with the way out."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights are never loaded"):
        weights_digest(folder)


def test_the_card_speaks_through_its_front_matter(folder: Path) -> None:
    """Licence and notice come from the card's metadata; a broken card says nothing."""
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nnotice: a miniature\n---\n# Card\n")
    identity = model_identity(folder, source="here")
    assert (identity.licence, identity.notice) == ("apache-2.0", "a miniature")
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    assert model_identity(folder, source="here").licence is None


def test_the_template_is_found_in_either_place(folder: Path) -> None:
    """chat_template.jinja wins over the key in tokenizer_config.json; neither gives None."""
    assert chat_template(folder) is None
    (folder / "tokenizer_config.json").write_text('{"chat_template": "old"}')
    assert chat_template(folder) == "old"
    (folder / "chat_template.jinja").write_text("new")
    assert chat_template(folder) == "new"


@pytest.mark.parametrize(
    ("missing", "line"),
    [("config.json", "no config.json"), ("tokenizer.json", "holds no tokenizer"), ("model.safetensors", "No weights")],
)
def test_what_is_missing_is_named(folder: Path, missing: str, line: str) -> None:
    """Each missing part of a model folder is one line that names it."""
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=line):
        model_identity(folder, source="here")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A folder that is not there is one line that names it and the key to check."""
    with pytest.raises(ModelError, match=r"nowhere does not exist.*model\.path"):
        model_identity(tmp_path / "nowhere", source="nowhere")
