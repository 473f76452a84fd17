"""Where a number comes from: seeds that go in as generators, digests of what was measured, and the versions that measured it.

Nothing here touches a global random state. A stream is named, so that adding one draw somewhere does not shift another's.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch


def digest(*parts: Any) -> str:
    """SHA-256 (hex) of a sequence of JSON-able values or bytes; the boundaries between parts count."""
    sha = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, ensure_ascii=False).encode()
        sha.update(len(data).to_bytes(8, "big"))
        sha.update(data)
    return sha.hexdigest()


def stream_seed(seed: int, *names: str) -> int:
    """A 63-bit seed for the stream called `names` under the user's `seed`."""
    return int(digest(seed, *names)[:15], 16)


def numpy_generator(seed: int, *names: str) -> np.random.Generator:
    return np.random.default_rng(stream_seed(seed, *names))


def torch_generator(seed: int, *names: str) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(seed, *names))


def versions() -> dict[str, str]:
    """Versions of everything that can change a figure."""
    found = {"python": platform.python_version(), "machine": f"{platform.machine()} {platform.system()}"}
    for package in ("strandscope", "torch", "transformers", "numpy", "scipy", "scikit-learn", "safetensors"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
