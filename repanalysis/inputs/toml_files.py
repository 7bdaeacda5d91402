"""TOML files, with a sentence for what can't be read."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from probes.errors import FormatError

__all__ = ["read_toml"]


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If it is no TOML file.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    if not path.is_file():
        raise FormatError(f"{path} is not a plain file; a TOML file is needed.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is no TOML file: byte {error.start} is no UTF-8.") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise FormatError(f"{path} is no TOML file: {str(error) or 'it is nested too deeply'}.") from None
