"""Model and tokenizer from a folder or a hub id, checked. Nothing is unpickled and no code of the model's repository is
run; everything a user can fix is a ModelError of one line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging

from grpo_audit.config.sections import ModelConfig
from grpo_audit.errors import ModelError

HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.md"]
"""What is fetched from the hub: no pickles, no code."""


def resolve_folder(config: ModelConfig, base_dir: Path) -> Path:
    """The model's folder: ``builtin``'s, a local one (relative to ``base_dir``), or a download from the hub."""
    if config.path == "builtin":
        from grpo_audit_builtin import MODEL_DIR  # the miniature is needed only when it is named

        return _checked(Path(MODEL_DIR), config.path)
    local = base_dir / Path(config.path).expanduser()
    if local.exists() or _looks_local(config.path):
        return _checked(local, config.path)
    try:
        return Path(snapshot_download(config.path, revision=config.revision, allow_patterns=HUB_FILES))
    except (OSError, ValueError) as error:  # hub, network and cache errors are OSErrors, a bad name a ValueError
        raise ModelError(
            f"Cannot load the model {config.path}",
            found=f"no such folder, and from the hub: {_first_line(error)}",
            expected="'builtin', a folder saved with save_pretrained, or a hub id such as Qwen/Qwen2.5-0.5B",
            next_step="Check model.path, model.revision and the network",
        ) from error


def _looks_local(path: str) -> bool:
    return path.startswith((".", "~", "/")) or path.count("/") != 1


def _checked(folder: Path, path: str) -> Path:
    if (folder / "config.json").is_file():
        return folder
    found = "a folder without config.json" if folder.is_dir() else "a file" if folder.exists() else "no such folder"
    raise ModelError(
        f"Cannot load the model {path}",
        found=found,
        expected="'builtin', a folder saved with save_pretrained, or a hub id such as Qwen/Qwen2.5-0.5B",
        next_step="Check model.path",
    )


def load_model(folder: Path, path: str) -> Any:
    """The causal LM in float32, dropout off, in eval mode."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"Cannot load the model {path}",
            found=_first_line(error),
            expected="a readable config.json that needs no code of its own",
            next_step="Check model.path",
        ) from error
    _check_causal(config, path)
    try:
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise _bad_weights(path, _first_line(error)) from error
    if missing := sorted(info["missing_keys"]):
        raise _bad_weights(path, f"{len(missing)} tensors missing, the first is {missing[0]}")
    dropout_off(model)
    return model.eval()


def _check_causal(config: Any, path: str) -> None:
    mapped = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    classes = mapped if isinstance(mapped, list | tuple) else [mapped]
    names = {cls.__name__ for cls in classes if cls is not None}
    declared = list(config.architectures or [])
    if not names or config.is_encoder_decoder or (declared and not names & set(declared)):
        raise ModelError(
            f"{path} is not a causal language model",
            found=f"architecture {', '.join(declared) or type(config).__name__}",
            expected="a decoder-only ...ForCausalLM",
            next_step="Choose another model.path",
        )


def load_tokenizer(folder: Path, path: str) -> Any:
    """The tokenizer beside the weights."""
    try:
        with quiet():
            return _tokenizer_class(folder).from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"Cannot load the tokenizer of {path}",
            found=_first_line(error),
            expected="the tokenizer's files beside the weights",
            next_step="Save the tokenizer into the same folder",
        ) from error


def _tokenizer_class(folder: Path) -> Any:
    """``AutoTokenizer`` rebuilds the tokenizer of some architectures (Qwen2 among them) in their usual way, whatever
    ``tokenizer.json`` says; a folder that names the generic class means its file."""
    config = folder / "tokenizer_config.json"
    declared = json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class") if config.is_file() else None
    generic = declared in ("TokenizersBackend", "PreTrainedTokenizerFast") and (folder / "tokenizer.json").is_file()
    return PreTrainedTokenizerFast if generic else AutoTokenizer


def end_and_filler(model: Any, tokenizer: Any, path: str) -> tuple[tuple[int, ...], int]:
    """Every id that ends a completion, and the id that fills rows up.

    Without an end token no completion could ever end, so that is an error. A missing pad token is none: which positions
    are padding is known by lengths here, never by ids, so the end token can fill up without hiding a real one.
    """
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    if eos is None:
        raise ModelError(
            f"The tokenizer of {path} has no end token",
            found="neither an eos nor a pad token" if pad is None else "a pad token only",
            expected="an eos token, so that completions can end",
            next_step="Set eos_token in tokenizer_config.json to the token the model was trained to end with",
        )
    declared = getattr(model.generation_config, "eos_token_id", None)
    extra = declared if isinstance(declared, list) else [declared]
    ids = {int(eos), *(int(item) for item in extra if item is not None)}
    return tuple(sorted(ids)), int(eos if pad is None else pad)


def check_vocabulary(model: Any, tokenizer: Any, path: str) -> None:
    """Every token id has a row in the embedding."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ModelError(
            f"The tokenizer of {path} does not fit the model",
            found=f"token id {highest} with {rows} rows in the embedding",
            expected="every token id below the number of rows",
            next_step="Use the tokenizer the model was trained with",
        )


def dropout_off(model: nn.Module) -> None:
    """For good: gradient checkpointing needs train mode, and rollouts and updates must see the same model."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and load reports: what matters in them is an error here."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _bad_weights(path: str, found: str) -> ModelError:
    return ModelError(
        f"Cannot load the weights of {path}",
        found=found,
        expected="complete safetensors files that fit config.json",
        next_step="Download or save the model again",
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
