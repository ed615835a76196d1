"""Optional packages: imported where they are used, with the pip command when they are absent."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from types import ModuleType

from utils.errors import UserError

REPORTING = ("openvino", "nncf", "onnxruntime")  # packages that would tell their makers of their use


def require(module: str, pip: str) -> ModuleType:
    """The imported module.

    Args:
        module: dotted name to import; the module of that name is returned, not its top package.
        pip: what `pip install` has to be told.

    Raises:
        UserError: it is not installed, or it is and cannot be loaded.
    """
    if module.split(".")[0] in REPORTING:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # without it they cannot
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):  # Ctrl-C in a native module
            raise KeyboardInterrupt from error
        top = module.split(".")[0]
        if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == top:
            raise UserError(_absent({top: pip})) from error
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the package {top} cannot be loaded ({reason}); try pip install -U {pip}") from error


def check_installed(module: str, pip: str) -> None:
    """The same without the seconds that importing may take.

    Raises:
        UserError: it is not installed.
    """
    check_all_installed({module: pip})


def check_all_installed(wanted: Mapping[str, str]) -> None:
    """The same for several: all that are missing are named at once.

    Args:
        wanted: what `pip install` has to be told, by module.
    """
    missing = {module.split(".")[0]: pip for module, pip in wanted.items() if not is_installed(module)}
    if missing:
        raise UserError(_absent(missing))


def is_installed(module: str) -> bool:
    """Whether a module's top package is there, without importing it."""
    top = module.split(".")[0]
    if top in sys.modules:
        return sys.modules[top] is not None
    return importlib.util.find_spec(top) is not None


def _absent(packages: Mapping[str, str]) -> str:
    several = "packages" if len(packages) > 1 else "package"
    pip = " ".join(dict.fromkeys(packages.values()))
    return f"this needs the {several} {', '.join(packages)}: pip install {pip}"
