"""Open a network and check it: the embedded model, a hub id, a folder, a GGUF file, or a module in memory.

What `load` promises: weights come from safetensors or GGUF, never from a pickle; no code from a model's repository runs unless
`trust_remote_code` is asked for; every weight that the network needs was in the files; and the subject passed its selfcheck, or
is refused with the line that failed. A module in memory is used as it is, not copied, and its weights are not changed. One thing
stays behind on a module of transformers: the first pass that asks for `output_hidden_states`, and opening makes one, has
transformers hang recording hooks of its own on it, which it never takes off and which change no result.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..errors import InputError, MissingError, TrustError
from ..provenance import digest
from .anatomy import structure
from .attach import hooks
from .fingerprint import folder_fingerprint, module_fingerprint, tokenizer_digest
from .gguf import EMBEDDED, converted, embedded_file, gguf_fingerprint
from .probe import batch_for, quiet_mode, rows_for
from .quiet import quiet
from .selfcheck import selfcheck
from .subject import Batch, Subject
from .trace import accepts, trace
from .verify import verify

_DTYPES = ("float32", "bfloat16", "float16", "float64")
_WEIGHTS = "*.safetensors"


def load(
    what: str | os.PathLike[str] | nn.Module,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "auto",
    device_map: Any = None,
    revision: str | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
    batch: Batch | None = None,
    probe: Sequence[Any] | None = None,
    tokenizer: Any = None,
    check: Literal["quick", "full", "none"] = "quick",
) -> Subject:
    """Open a network as a subject.

    Args:
        what: "smollm2" (the embedded model), a hub id or id@revision, a folder, a .gguf file, or an nn.Module in eval mode.
        dtype: what the weights are cast to; None or "auto" keeps the stored dtype (bfloat16 for GGUF).
        device: "auto" is the GPU if there is one.
        batch: for an nn.Module, turns a list of rows into the keyword arguments of its forward.
        probe: for an nn.Module, three rows as `batch` takes them, for the checks; made up from its first layer where left out.
        tokenizer: in place of the network's own; it is then part of the fingerprint.
        check: how much of `selfcheck` to run.

    Raises:
        InputError, MissingError: it cannot be opened. TrustError: it failed a check.
    """
    if check not in ("quick", "full", "none"):
        raise InputError(f"check={check!r}: wanted quick, full or none")
    if batch is not None and not callable(batch):
        raise InputError(f"batch: got a {type(batch).__name__}, wanted a function from rows to the network's keyword arguments")
    if tokenizer is not None and not all(hasattr(tokenizer, name) for name in ("is_fast", "get_vocab", "chat_template")):
        raise InputError(
            f"tokenizer: got a {type(tokenizer).__name__}, wanted a tokenizer of transformers, such as AutoTokenizer opens"
        )
    if isinstance(what, nn.Module):
        if (dtype, device, device_map, revision) != (None, "auto", None, None):
            raise InputError(
                "dtype, device, device_map and revision are for models that are read from files; move the module yourself first"
            )
        return _open_module(what, batch, probe, tokenizer, check)
    text = os.fspath(what)
    if not text.strip():
        raise InputError("what: the name of the model is empty; wanted smollm2, a hub id, a folder or a .gguf file")
    folder, fingerprint, source = _find(text, revision, offline, trust_remote_code)
    if source["kind"] in ("embedded", "gguf") and dtype in (None, "auto"):
        dtype = "bfloat16"
    placing = {"device_map": device_map} if device_map is not None else {}
    module = _read(folder, _dtype(dtype), trust_remote_code, placing)
    if device_map is None:
        module = module.to(_device(device))
    words = tokenizer if tokenizer is not None else _tokenizer(folder, trust_remote_code)
    if tokenizer is not None:
        fingerprint = digest(fingerprint, tokenizer_digest(tokenizer))
    source |= {"revision": source.get("revision") or revision, "trust_remote_code": trust_remote_code, "device_map": device_map}
    return _examined(text, module.eval(), words, fingerprint, source, batch, probe, check)


def _open_module(module: nn.Module, batch: Batch | None, probe: Sequence[Any] | None, tokenizer: Any, check: str) -> Subject:
    quiet_mode(module)
    source = {"what": type(module).__name__, "kind": "module", "revision": None, "trust_remote_code": False, "device_map": None}
    return _examined(type(module).__name__, module, tokenizer, module_fingerprint(module, tokenizer), source, batch, probe, check)


def _examined(
    name: str,
    module: nn.Module,
    tokenizer: Any,
    fingerprint: str,
    source: Mapping[str, Any],
    batch: Batch | None,
    probe: Sequence[Any] | None,
    check: str,
) -> Subject:
    """The subject with its anatomy found and verified, and its selfcheck passed."""
    rows = tuple(probe) if probe is not None else rows_for(module, tokenizer if batch is not None else None)
    if len(rows) < 3:
        raise InputError(f"probe: got {len(rows)} rows, wanted three, as batch takes them")
    batch = batch or batch_for(module)
    first = _first_pass(name, module, batch, rows)
    config = getattr(module, "config", None)
    family = getattr(config, "model_type", None) or type(module).__name__
    decodes = bool(getattr(module, "can_generate", bool)())
    anatomy = structure(module, first, family=family, tokens="input_ids" in batch(rows[:1]), decodes=decodes)
    weight = next(module.parameters())
    source = {**source, "dtype": str(weight.dtype).removeprefix("torch."), "device": str(weight.device)}
    subject = Subject(name, module, tokenizer, anatomy, fingerprint, source, batch, probe=rows)
    with quiet():  # transformers tells in its first passes which optional kernels are not installed
        subject = replace(subject, anatomy=verify(subject, first), _ports={})
    if check == "none":
        return replace(subject, hooks=hooks(module))
    checks = selfcheck(subject, full=check == "full")
    failed = [line for line in checks if line.status == "failed"]
    if failed:
        raise TrustError(f"{name} failed its selfcheck: {failed[0]}; its numbers could not be trusted, so it is refused")
    return replace(subject, checks=checks, hooks=hooks(module))


def _first_pass(name: str, module: nn.Module, batch: Batch, rows: Sequence[Any]) -> Any:
    try:
        kwargs = batch([rows[0]] * 2)
        _check_batch(kwargs)
        more = {"use_cache": False} if accepts(module, "use_cache") else {}
        with quiet():
            return trace(module, {**kwargs, **more})
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise InputError(
            f"{name}: its forward pass did not run on made-up rows ({type(error).__name__}: {reason}); "
            "give batch=, which turns a list of rows into the keyword arguments of forward, and probe=[three rows that it takes]"
        ) from error


def _check_batch(made: Any) -> None:
    sizes = {value.shape[0] for value in made.values() if isinstance(value, torch.Tensor) and value.dim()}
    if sizes and 2 not in sizes:
        raise InputError(f"batch: made {min(sizes)} rows of two; it turns a list of rows into the keyword arguments of forward")


def _find(text: str, revision: str | None, offline: bool, trust_remote_code: bool) -> tuple[Path, str, dict[str, Any]]:
    """(folder to read, fingerprint, source) of whatever the text names."""
    path = Path(text)
    if text == EMBEDDED or path.suffix == ".gguf":
        file = embedded_file() if text == EMBEDDED else path
        fingerprint = gguf_fingerprint(file)
        kind = "embedded" if text == EMBEDDED else "gguf"
        return converted(file, fingerprint), fingerprint, {"what": text, "kind": kind}
    if path.is_dir():
        return _checked(path), folder_fingerprint(path), {"what": text, "kind": "folder"}
    if path.is_absolute() or text.startswith(".") or text.count("/") > 1 or path.exists():
        raise MissingError(f"{text}: there is no such model folder; check the path, or give a hub id, a .gguf file or smollm2")
    name, _, at = text.partition("@")
    if at and revision and at != revision:
        raise InputError(f"{text}: names revision {at}, and revision={revision!r} was given too; give one of them")
    folder = _from_hub(name, at or revision, offline, trust_remote_code)
    return _checked(folder), folder_fingerprint(folder), {"what": name, "kind": "hub", "revision": at or revision or folder.name}


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: holds no config.json; wanted a model folder as save_pretrained writes it")
    if not any(folder.glob(_WEIGHTS)):
        raise InputError(f"{folder}: holds no .safetensors file; save the model with safe_serialization (pickles are not read)")
    return folder


def _from_hub(name: str, revision: str | None, offline: bool, trust_remote_code: bool) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RevisionNotFoundError

    offline = (
        offline or constants.is_offline_mode() or os.environ.get("TRANSFORMERS_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    )
    wanted = ["*.json", "*.jinja", "*.txt", "*.model", _WEIGHTS, *(["*.py"] if trust_remote_code else [])]
    try:
        with quiet():
            found = snapshot_download(
                name, revision=revision, local_files_only=offline, allow_patterns=wanted, ignore_patterns=["*/*", "consolidated*"]
            )
        return Path(found)
    except HFValidationError:
        raise InputError(
            f"{name!r} is neither a folder nor a hub id; wanted smollm2, a folder, a .gguf file, or owner/name"
        ) from None
    except LocalEntryNotFoundError:
        state = "this run is offline" if offline else "the hub cannot be reached"
        raise MissingError(
            f"{name} is not in the local cache and {state}; fetch it once with a connection, or use smollm2"
        ) from None
    except RevisionNotFoundError:
        raise MissingError(f"{name} has no revision {revision!r} on the hub; check its name") from None
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0]
        raise MissingError(f"{name} cannot be fetched from the hub ({reason}); check the id and that you may read it") from None


def _read(folder: Path, dtype: torch.dtype | str, trust_remote_code: bool, placing: Mapping[str, Any]) -> nn.Module:
    import transformers
    from safetensors import SafetensorError

    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            opener = _class_of(config, folder, trust_remote_code)
            more = {"trust_remote_code": True} if trust_remote_code else {}
            module, notes = opener.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **placing,
                **more,
            )
    except SafetensorError as error:
        raise InputError(f"{folder}: a safetensors file is damaged ({error}); copy or download it again") from error
    except (ValueError, KeyError, OSError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{folder}: transformers cannot open it ({reason}); check that it is a whole model folder") from error
    absent = sorted(notes["missing_keys"])
    if absent:
        raise InputError(f"{folder}: {len(absent)} weights are not in its files ({absent[0]}, …); copy or download it again")
    return module


def _class_of(config: Any, folder: Path, trust_remote_code: bool) -> Any:
    """The class that the config names; by the kind of its name where the code comes with the model."""
    import transformers

    named = (config.architectures or ["AutoModel"])[0]
    if not (trust_remote_code and getattr(config, "auto_map", None)) and named in dir(transformers):
        return getattr(transformers, named)
    if not trust_remote_code:
        raise InputError(
            f"{folder}: transformers has no {named}; if you trust the code that comes with it, pass trust_remote_code=True"
        )
    kinds = {"ForCausalLM": "AutoModelForCausalLM", "ForImageClassification": "AutoModelForImageClassification"}
    kinds |= {"LMHeadModel": "AutoModelForCausalLM", "ForMaskedLM": "AutoModelForMaskedLM"}
    return getattr(transformers, next((auto for ending, auto in kinds.items() if named.endswith(ending)), "AutoModel"))


def _tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    if not any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
    ):
        return None
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{folder}: its tokenizer cannot be opened ({reason}); copy or download it again") from error


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | str:
    if dtype is None or dtype == "auto" or isinstance(dtype, torch.dtype):
        return dtype or "auto"
    name = dtype.removeprefix("torch.")
    if name not in _DTYPES:
        raise InputError(f"dtype {dtype!r} is not understood; wanted auto, {', '.join(_DTYPES)}")
    return getattr(torch, name)


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r} is not understood; wanted auto, cpu, cuda or cuda:0") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise MissingError(f"device {device!r}: this machine has no GPU that torch can use; choose cpu")
    return place
