"""The `.env` file: variables that stand in for those of the environment."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

from samvad.errors import SetupError

PREFIX: Final = "SAMVAD_"
ENV_FILE: Final = Path(".env")
_FILE_BYTES_MAX: Final = 1024 * 1024


def read_env_file(path: Path = ENV_FILE) -> dict[str, str]:
    """The variables of a `.env` file as they stand there (`${NAME}` is not replaced); none where there is no file."""
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as opened:
            raw = opened.read(_FILE_BYTES_MAX + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise SetupError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise SetupError(f"{path} is not UTF-8 text.") from None
    if len(raw) > _FILE_BYTES_MAX:
        raise SetupError(f"{path} is larger than {_FILE_BYTES_MAX} bytes; it cannot be a file of settings.")
    from dotenv.parser import parse_stream

    found: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        bare = binding.value is None and (binding.key or "").startswith(PREFIX)
        if (binding.error and PREFIX in binding.original.string) or bare:
            raise SetupError(f"Line {binding.original.line} of {path} is not of the form NAME=value.")
        if binding.key is not None and not binding.error:
            found[binding.key] = binding.value or ""
    return found
