"""The building blocks, one family a file; importing the package registers them all.

Blocks import each other and `models.registry`, nothing else of ours. Begin with `conv.py` and `csp.py`.
"""

from __future__ import annotations

import importlib
import pkgutil

# Found, not listed: a new family is one new file and nothing else.
FAMILIES = tuple(
    importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)
)
