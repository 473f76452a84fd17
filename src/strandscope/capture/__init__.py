"""From examples to states: rows, tokens, passes, and what the network says next.

`strandscope.capture` is this package and, in the front door, also the verb: the import system puts a sub-package's name on its
parent, over the function of that name. So the package can be called, and means the function.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Verb(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from .record import capture

        return capture(*args, **kwargs)


sys.modules[__name__].__class__ = _Verb
