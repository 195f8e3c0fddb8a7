"""Writing so that nothing is ever half-written: a temporary neighbour, then one rename."""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lora_sku.errors import StorageError

GIB = 2**30


def cache_folder() -> Path:
    """Where what can be made again is kept: $LORA_SKU_CACHE, else the user's cache folder."""
    chosen = os.environ.get("LORA_SKU_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lora-sku"


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals below into a `StorageError` that names the place."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else _errno_of(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            problem, remedy = "no space left on this disk", "Free some, or choose another --output."
        elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
            problem, remedy = "may not be written", "Choose another --output."
        elif number in (errno.ENOTDIR, errno.EEXIST):
            problem, remedy = "a file stands in the way", "Remove it, or choose another --output."
        else:
            raise
        raise StorageError(problem, where=str(path), remedy=remedy) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write; it takes ``path``'s name only if nothing was raised."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; it takes ``path``'s name, replacing what stood there."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file)
                    file.chmod(0o666 & ~_umask())  # safetensors writes for the owner only
            temporary.chmod(0o777 & ~_umask())
            if path.is_dir():
                # Two renames, so that a killed process never leaves half of a folder.
                replaced = path.rename(temporary.with_name(f"{temporary.name}.old"))
                temporary.rename(path)
                shutil.rmtree(replaced)
            else:
                temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(path: Path) -> None:
    """Remove what a process left that was killed while it wrote the file or folder ``path``."""
    for temporary in path.parent.glob(f".{path.name}.*"):
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a whole text file atomically, UTF-8."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; non-finite numbers are refused, JSON has none."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def require_free_space(folder: Path, needed_bytes: int) -> None:
    """Refuse early if ``folder``'s disk has less than ``needed_bytes`` free.

    Raises:
        StorageError: with both figures.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise StorageError(
            f"this disk has {free / GIB:.2f} GiB free, but the run may write"
            f" {needed_bytes / GIB:.2f} GiB",
            where=str(folder),
            remedy="Free some space, or choose another --output.",
        )


def _errno_of(error: SafetensorError) -> int | None:
    """The operating system's reason, which safetensors tells in its text only."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
