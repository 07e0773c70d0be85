"""What a model *is*: digests of its weights, tokenizer, template, configuration and card. No torch needed.

A safetensors file is 8 bytes (little-endian length of the header), a JSON header naming dtype, shape and byte range of
each tensor, and the bytes (https://huggingface.co/docs/safetensors). The digest is taken over the tensors in the order
of their names, so it does not depend on how they are cut into files.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from grpo_audit.errors import ModelError
from grpo_audit.record.events import FileDigest, ModelIdentity

_CHUNK = 1 << 20
_MAX_HEADER = 100 << 20  # safetensors' own limit
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Tensor:
    """Where one tensor's bytes lie."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    end: int


def bytes_digest(data: bytes) -> str:
    """``sha256:`` digest of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """``sha256:`` digest of a file, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def folder_files(folder: Path) -> list[FileDigest]:
    """Digest of each file directly in a folder, in the order of names; hidden files are left out."""
    return [
        FileDigest(name=path.name, size=path.stat().st_size, digest=file_digest(path))
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    ]


def tensors(folder: Path) -> list[Tensor]:
    """Every tensor of the folder's ``*.safetensors`` files, in the order of names.

    Raises ModelError when there is none, a header is broken, a range leaves the file, or a name occurs twice.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ModelError(
            f"No weights in {folder}",
            expected="at least one .safetensors file",
            next_step="Convert other formats with save_pretrained; pickled weights are never loaded",
        )
    found = sorted((tensor for path in paths for tensor in _read_header(path)), key=lambda tensor: tensor.name)
    for first, second in itertools.pairwise(found):
        if first.name == second.name:
            raise ModelError(f"Tensor {first.name} is in both {first.path.name} and {second.path.name} of {folder}")
    return found


def _read_header(path: Path) -> Iterator[Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise ModelError(f"{path} is no safetensors file", found="a header longer than the file")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
        except ValueError as error:
            raise ModelError(f"{path} is no safetensors file", found=f"a broken header ({error})") from error
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        if not 0 <= start <= end <= size - 8 - length:
            raise ModelError(f"{path} is cut short", found=f"tensor {name} outside of the file")
        yield Tensor(name, entry["dtype"], tuple(entry["shape"]), path, 8 + length + start, 8 + length + end)


def weights_digest(folder: Path) -> str:
    """SHA-256 over all tensors: for each, in the order of names, the line ``NAME DTYPE SHAPE`` (JSON array, newline)
    and its bytes."""
    digest = hashlib.sha256()
    for tensor in tensors(folder):
        digest.update(json.dumps([tensor.name, tensor.dtype, list(tensor.shape)]).encode() + b"\n")
        with tensor.path.open("rb") as file:
            file.seek(tensor.start)
            left = tensor.end - tensor.start
            while left:
                piece = file.read(min(_CHUNK, left))
                if not piece:
                    raise ModelError(f"{tensor.path} is cut short", found=f"tensor {tensor.name} incomplete")
                digest.update(piece)
                left -= len(piece)
    return "sha256:" + digest.hexdigest()


def parameter_count(folder: Path) -> int:
    """Number of elements of all tensors as stored (tied weights count once)."""
    return sum(math.prod(tensor.shape) for tensor in tensors(folder))


def model_identity(folder: Path, *, source: str, revision: str | None = None) -> ModelIdentity:
    """Identify the model in a folder. Raises ModelError naming what is missing."""
    if not folder.is_dir():
        raise ModelError(
            f"Model folder {folder} does not exist",
            expected="a folder with config.json, a tokenizer and .safetensors weights",
            next_step="Check model.path in the recipe",
        )
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ModelError(f"{folder} holds no model", found="no config.json", next_step="Check model.path in the recipe")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{config_file} is not JSON", found=str(error)) from error
    front = _card_front_matter(folder / "README.md")
    return ModelIdentity(
        source=source,
        revision=revision,
        architecture=", ".join(config.get("architectures") or [str(config.get("model_type", "unknown"))]),
        parameters=parameter_count(folder),
        weights_digest=weights_digest(folder),
        tokenizer_digest=_tokenizer_digest(folder),
        chat_template_digest=_chat_template_digest(folder),
        config_digest=file_digest(config_file),
        files=folder_files(folder),
        licence=_text(front.get("license")),
        notice=_text(front.get("notice")),
        card_digest=file_digest(folder / "README.md") if (folder / "README.md").is_file() else None,
        layers=_whole(config, "num_hidden_layers", "n_layer"),
        hidden_size=_whole(config, "hidden_size", "n_embd"),
        context_length=_whole(config, "max_position_embeddings", "n_positions"),
    )


def _whole(config: dict[str, Any], *names: str) -> int | None:
    """A positive whole number of config.json, by one of its names."""
    for name in names:
        value = config.get(name)
        if type(value) is int and value > 0:
            return value
    return None


def _tokenizer_digest(folder: Path) -> str:
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not present:
        raise ModelError(
            f"{folder} holds no tokenizer",
            expected=f"one of {', '.join(TOKENIZER_FILES[:3])}",
            next_step="Save the tokenizer beside the model with save_pretrained",
        )
    lines = "".join(f"{file_digest(folder / name)}  {name}\n" for name in present)
    return bytes_digest(lines.encode())


def chat_template(folder: Path) -> str | None:
    """The chat template's text: ``chat_template.jinja``, else the key in ``tokenizer_config.json``."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        template = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
        if template is not None:
            return template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return None


def _chat_template_digest(folder: Path) -> str | None:
    template = chat_template(folder)
    return None if template is None else bytes_digest(template.encode())


def _card_front_matter(card: Path) -> dict[str, Any]:
    """Metadata of a model card; a card without metadata, or with broken metadata, says nothing."""
    if not card.is_file():
        return {}
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        front = YAML(typ="safe", pure=True).load(parts[1])
    except YAMLError:
        return {}
    return front if isinstance(front, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
