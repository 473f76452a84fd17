"""The census: how many directions a network's output answers to, site by site, beside networks that learned nothing.

`strandscope.census` is this package and, in the front door, also the verb: the import system puts a sub-package's name on its
parent, over the function of that name. So the package can be called, and means the function.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Verb(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from .census import census

        return census(*args, **kwargs)


sys.modules[__name__].__class__ = _Verb
