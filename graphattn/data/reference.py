"""Code of yours, named in one line: "package.module:name"."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def current_directory_importable() -> Iterator[None]:
    """Inside, modules of the current directory can be imported, after all that is installed."""
    directory = str(Path.cwd())
    if directory in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(directory)  # last: nothing that is installed can be shadowed
    try:
        yield
    finally:
        sys.path.remove(directory)


def find_callable(reference: str, what: str) -> Any:
    """Returns the function or class that a reference names; modules of the current directory are found as well.

    Args:
        reference: "package.module:name".
        what: what an error calls it, such as "a data set of your own".

    Raises:
        ImportError: if the module is not there, or has no such name; says what it has.
        TypeError: if the name is nothing that can be called.
        ValueError: if the reference has another form.

    >>> find_callable("math:sqrt", "a function")(16)
    4.0
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name.isidentifier():
        raise ValueError(f"{what} is named 'package.module:name', got {reference!r}.")
    with current_directory_importable():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # the module is there; something that it imports is not
            raise ImportError(
                f"{reference}: there is no module {error.name!r} in {Path.cwd()} or on the Python path. "
                "Run in the directory that holds it, or add that directory to PYTHONPATH."
            ) from error
    found = getattr(module, name, None)
    if found is None:
        public = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise ImportError(f"{module_name} has no {name!r}; it has {', '.join(public) or 'nothing to call'}.")
    if not callable(found):
        raise TypeError(f"{reference} must be a function or a class, got {type(found).__name__}. Write `def {name}`.")
    return found
