"""Code outside this package: entry points of installed packages, modules, plugin files, notebook cells.

`py:module:name`    an attribute of a module that can be imported, also from the current folder
`--plugin FILE`     a Python file, run once; it registers its parts, and its module has the name of the file
entry points        of the groups `repanalysis.metrics`, `.perturbations`, `.networks` and `.plots`
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pickle
import sys
from functools import cache
from pathlib import Path
from typing import Any

from probes.errors import UsageError, did_you_mean

__all__ = ["attribute_of", "by_value", "entry_points", "load_plugin", "origin_of"]


def load_plugin(path: Path) -> None:
    """Run a Python file as a module with the name of the file; a file is run only once.

    Raises
    ------
    UsageError
        If there is no such file, its name is not an identifier or that of another module, or running it fails.

    Examples
    --------
    >>> load_plugin(Path("nowhere.py"))
    Traceback (most recent call last):
    ...
    probes.errors.UsageError: There is no plugin nowhere.py.
    """
    name = path.stem
    if not path.is_file():
        raise UsageError(f"There is no plugin {path}.")
    if not name.isidentifier() or path.suffix != ".py":
        raise UsageError(f"{path} is not a plugin: a Python file is needed whose name is an identifier, such as my_metrics.py.")
    loaded = sys.modules.get(name)
    if loaded is not None and Path(str(getattr(loaded, "__file__", ""))).resolve() == path.resolve():
        return
    other = None if loaded is not None else importlib.util.find_spec(name)
    if loaded is not None or (other is not None and Path(str(other.origin)).resolve() != path.resolve()):
        raise UsageError(f"{path} has the name of another module, {name}; give the file another name.")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt | UsageError):
            raise
        raise UsageError(f"Plugin {path} fails: {type(error).__name__}: {error}.") from error


def attribute_of(text: str) -> Any:
    """The object `module:name`.

    Raises
    ------
    UsageError
        If there is no such module or name, or importing it fails.

    Examples
    --------
    >>> attribute_of("math:pi")
    3.141592653589793
    """
    path, _, attribute = text.partition(":")
    if not attribute or not all(part.isidentifier() for part in path.split(".")):
        raise UsageError(f"'py:{text}' names no part of a module; write py:package.module:name.")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a module of the current folder, as `python -m` finds it
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise UsageError(f"There is no module {error.name!r} for 'py:{text}', seen from this folder.") from error
    except SystemExit as error:
        raise UsageError(f"Module {path!r} is a program: importing it ended with exit code {error.code}.") from error
    if not hasattr(module, attribute):
        raise UsageError(f"Module {path!r} has no {attribute!r}.{did_you_mean(attribute, vars(module))}")
    return getattr(module, attribute)


@cache
def entry_points(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Entry points of installed packages, by name; `group` is "metrics", "perturbations", "networks" or "plots"."""
    return {point.name: point for point in importlib.metadata.entry_points(group=f"repanalysis.{group}")}


def by_value(content: Any, function: Any) -> bytes:
    """A pickle that contains the code of a function's module, for processes that can't import it.

    Raises
    ------
    UsageError
        If something in the module can't be pickled, such as an open file.
    """
    import cloudpickle

    module = sys.modules.get(str(getattr(function, "__module__", "")))
    foreign = module is not None and module.__name__ != "__main__"
    if foreign:
        cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(content))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        name = f"{function.__module__}:{function.__qualname__}"
        raise UsageError(
            f"{name} can't go to other processes ({error}); leave workers out, or move that to another module."
        ) from error
    finally:
        if foreign:
            cloudpickle.unregister_pickle_by_value(module)


def origin_of(function: Any) -> str:
    """Origin of code outside this package, and a hash of its source, for the provenance; empty for this package.

    Examples
    --------
    >>> origin_of(load_plugin)
    ''
    """
    module = str(getattr(function, "__module__", ""))
    if module.split(".", maxsplit=1)[0] in ("repanalysis", "probes"):
        return ""
    try:
        digest = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:12]
    except (OSError, TypeError):
        digest = "unknown"
    return f"{module}:{getattr(function, '__qualname__', '')} sha256 {digest}"
