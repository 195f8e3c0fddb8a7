"""Where models and data sets come from: packages, this machine, the hub's cache, the hub."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import filter_repo_objects

from lora_sku import sources
from lora_sku.errors import SourceError, SourceUnreachableError
from lora_sku.sources import Kind, locate

MAIN, TAGGED, PULLED = "a" * 40, "b" * 40, "c" * 40


def lay_out(cache: Path, kind: Kind, repository: str, files: dict[str, str] | None = None) -> None:
    """Lay out a repository as the hub's cache holds it: main, a tag and a pull request."""
    folder = cache / f"{kind}s--{repository.replace('/', '--')}"
    for ref, sha in (("main", MAIN), ("v1.0", TAGGED), ("refs/pr/7", PULLED)):
        (folder / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / ref).write_text(sha)
        snapshot = folder / "snapshots" / sha
        snapshot.mkdir(parents=True)
        for name, text in (files or {"model.safetensors": ref}).items():
            (snapshot / name).write_text(text)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's own cache folder, with the network forbidden."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that must not be imported."""
    folder = tmp_path / "site" / "carrier_of_files"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "rows.jsonl").write_text("{}")
    (folder / "inner" / "small.gguf").write_text("GGUF")
    (tmp_path / "site" / "single_module.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


def refusal(written: str, kind: Kind = "dataset", revision: str | None = None) -> SourceError:
    with pytest.raises(SourceError) as caught:
        locate(written, kind=kind, revision=revision)
    return caught.value


# ---- packages


@pytest.mark.parametrize("inner", ["rows.jsonl", "inner", "inner/small.gguf"])
def test_a_package_file_is_found_without_importing_the_package(package: Path, inner: str) -> None:
    located = locate(f"package://carrier_of_files/{inner}", kind="dataset")
    assert located.path == package / inner
    assert located.written == f"package://carrier_of_files/{inner}"
    assert located.revision is None
    assert "carrier_of_files" not in sys.modules


def test_a_missing_package_says_how_to_install_it() -> None:
    error = refusal("package://no_such_carrier/rows.jsonl")
    assert "no_such_carrier is not installed" in str(error)
    assert "pip install --no-deps no-such-carrier" in str(error)


def test_a_missing_package_file_names_the_nearest(package: Path) -> None:
    error = refusal("package://carrier_of_files/row.jsonl")
    assert "carries no row.jsonl" in str(error)
    assert "rows.jsonl" in (error.remedy or "")
    assert "small.gguf" in str(refusal("package://carrier_of_files/inner/smal.gguf"))


def test_a_single_module_carries_no_files(package: Path) -> None:
    assert "single module" in str(refusal("package://single_module/rows.jsonl"))


@pytest.mark.parametrize(
    "written", ["package://", "package://os", "package://a.b/c", "package://x/../y", "package:///y"]
)
def test_a_malformed_package_path_is_refused(written: str) -> None:
    assert "package://NAME/FILE" in str(refusal(written))


# ---- this machine


def test_an_existing_local_path_comes_before_the_hub(cache: Path) -> None:
    lay_out(cache, "dataset", "org/rows")
    assert locate("org/rows", kind="dataset").revision == MAIN
    local = Path("org/rows")
    local.mkdir(parents=True)
    located = locate("org/rows", kind="dataset")
    assert (located.path, located.revision) == (local, None)


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.csv").write_text("")
    assert locate("~/rows.csv", kind="dataset").path == tmp_path / "rows.csv"


@pytest.mark.parametrize("written", ["./forgt", "../x", "~/nowhere", "forgt.jsonl", "f/o.parquet"])
def test_what_looks_like_a_path_is_never_asked_from_the_hub(
    written: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "snapshot_download", lambda *_, **__: pytest.fail("asked"))
    assert "no such file or folder" in str(refusal(written))


def test_a_mistyped_path_names_the_nearest_at_the_place_where_it_goes_wrong(cache: Path) -> None:
    (Path("data") / "sets").mkdir(parents=True)
    Path("data/sets/forget.jsonl").write_text("")
    assert "forget.jsonl" in str(refusal("data/sets/forgt.jsonl"))
    error = refusal("dta/sets/forget.jsonl")
    assert "has no dta; it has data" in str(error)


def test_a_revision_of_a_local_path_is_refused_rather_than_ignored(cache: Path) -> None:
    Path("rows.jsonl").write_text("")
    assert "Set revision to null" in str(refusal("rows.jsonl", revision="main"))


@pytest.mark.parametrize("written", ["a/b/c", "", "  ", "org/na me", "-org/name", "org--x/name"])
def test_what_is_neither_path_nor_hub_id_is_refused(written: str, cache: Path) -> None:
    cache.parent.joinpath("something").write_text("")
    assert "neither an existing path nor a hub id" in str(refusal(written))


def test_a_model_file_must_be_a_gguf(cache: Path) -> None:
    Path("model.gguf").write_text("")
    Path("pytorch_model.bin").write_text("")
    assert locate("./model.gguf", kind="model").path == Path("model.gguf")
    assert "must be a .gguf file" in str(refusal("./pytorch_model.bin", kind="model"))


# ---- the hub's cache


@pytest.mark.parametrize("kind", ["model", "dataset"])
@pytest.mark.parametrize(
    ("revision", "sha"),
    [(None, MAIN), ("main", MAIN), ("v1.0", TAGGED), ("refs/pr/7", PULLED), (TAGGED, TAGGED)],
)
def test_a_cached_revision_is_found_offline(
    cache: Path, kind: Kind, revision: str | None, sha: str
) -> None:
    lay_out(cache, kind, "org/name")
    located = locate("org/name", kind=kind, revision=revision)
    assert located.revision == sha
    assert located.path == cache / f"{kind}s--org--name" / "snapshots" / sha


def test_a_model_is_not_taken_for_a_data_set_of_the_same_name(cache: Path) -> None:
    lay_out(cache, "model", "org/name")
    assert isinstance(refusal("org/name", kind="dataset"), SourceUnreachableError)


def test_an_id_without_organisation_is_a_hub_id(cache: Path) -> None:
    lay_out(cache, "model", "gpt2")
    assert locate("gpt2", kind="model").revision == MAIN


@pytest.mark.parametrize("revision", ["v2.0", "refs/pr/8", "d" * 40])
def test_a_revision_that_is_not_cached_is_unreachable_offline(cache: Path, revision: str) -> None:
    lay_out(cache, "model", "org/name")
    error = refusal("org/name", kind="model", revision=revision)
    assert isinstance(error, SourceUnreachableError)
    assert f"revision {revision} is not, or not wholly, on this machine" in str(error)
    assert f"hf download org/name --revision {revision}" in str(error)


@pytest.mark.parametrize(
    ("kind", "command"),
    [("model", "hf download org/no"), ("dataset", "hf download --repo-type dataset org/no")],
)
def test_a_repository_that_is_not_cached_is_unreachable_offline(
    cache: Path, kind: Kind, command: str
) -> None:
    error = refusal("org/no", kind=kind)
    assert isinstance(error, SourceUnreachableError)
    assert command in str(error)


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME"])
def test_the_users_cache_folder_is_respected(tmp_path: Path, variable: str) -> None:
    # In a process of its own: the hub reads its environment once, when it is imported.
    folder = tmp_path / "mine"
    lay_out(folder if variable == "HF_HUB_CACHE" else folder / "hub", "dataset", "org/name")
    environment = {name: text for name, text in os.environ.items() if not name.startswith("HF_")}
    environment |= {variable: str(folder), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(Path(sources.__file__).parents[1])
    code = "from lora_sku.sources import locate; print(locate('org/name', kind='dataset').path)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().startswith(str(folder))


# ---- weights


@pytest.mark.parametrize("from_hub", [True, False])
def test_a_model_with_only_pickled_weights_is_refused(cache: Path, from_hub: bool) -> None:
    files = {"config.json": "{}", "pytorch_model.bin": "pickle"}
    lay_out(cache, "model", "org/name", files)
    snapshot = cache / "models--org--name" / "snapshots" / MAIN
    error = refusal("org/name" if from_hub else str(snapshot), kind="model")
    assert "never unpickles" in str(error)
    assert "base_model.revision to refs/pr/N" in str(error)
    assert ("hf download" in str(error)) == from_hub


def test_a_data_set_needs_no_weights(cache: Path) -> None:
    lay_out(cache, "dataset", "org/name", {"train.jsonl": "{}"})
    assert locate("org/name", kind="dataset").revision == MAIN


def test_missing_shards_are_named(tmp_path: Path) -> None:
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (tmp_path / "model-1.safetensors").write_text("")
    error = refusal(str(tmp_path), kind="model")
    assert "1 of 2 weight files are missing, first model-2.safetensors" in str(error)
    (tmp_path / "model-2.safetensors").write_text("")
    assert locate(str(tmp_path), kind="model").path == tmp_path


@pytest.mark.parametrize(
    ("kind", "fetched", "left"),
    [
        (
            "model",
            "model-00001-of-00002.safetensors model.safetensors.index.json config.json merges.txt"
            " tokenizer.model chat_template.jinja qwen.tiktoken",
            "pytorch_model.bin model.pt modeling.py consolidated.safetensors original/params.json"
            " flax_model.msgpack tf_model.h5 model.gguf",
        ),
        ("dataset", "data/train.parquet README.md round0/train.jsonl.xz", "script.py code/x.py"),
    ],
)
def test_only_what_loads_safely_is_fetched(
    kind: Kind, fetched: str, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        (tmp_path / "model.safetensors").write_text("")
        return str(tmp_path)

    monkeypatch.setattr(sources, "snapshot_download", download)
    locate("org/name", kind=kind, revision="v1")
    assert (asked["repository"], asked["repo_type"], asked["revision"]) == ("org/name", kind, "v1")
    kept = filter_repo_objects(
        f"{fetched} {left}".split(),
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(kept) == fetched.split()


# ---- the hub's answers

Answer = Callable[[int, str], None]


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answer]:
    """A hub on this machine that gives every request the same answer."""
    answer = {"status": 500, "code": ""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(answer["status"]))
            self.send_header("X-Error-Code", str(answer["code"]))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield lambda status, code: answer.update(status=status, code=code)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "GatedRepo", "huggingface.co/org/name, then `hf auth login` or set HF_TOKEN"),
        (404, "RepoNotFound", "no such model on the hub"),
        (401, "RepoNotFound", "no such model on the hub"),
        (404, "RevisionNotFound", "no revision 'v1'"),
        (403, "", "refuses to hand out this model (HTTP 403)"),
        (500, "", "the hub cannot be reached"),
    ],
)
def test_what_the_hub_answers_is_told_with_its_remedy(
    hub: Answer, status: int, code: str, said: str
) -> None:
    hub(status, code)
    error = refusal("org/name", kind="model", revision="v1")
    assert said in str(error)
    assert isinstance(error, SourceUnreachableError) == (status == 500)
    assert error.__cause__ is not None


def test_the_page_of_a_gated_data_set_is_named(hub: Answer) -> None:
    hub(403, "GatedRepo")
    assert "https://huggingface.co/datasets/org/name" in str(refusal("org/name"))


def test_a_cached_copy_serves_while_the_hub_is_down(hub: Answer, cache: Path) -> None:
    lay_out(cache, "model", "org/name")
    hub(503, "")
    assert locate("org/name", kind="model").revision == MAIN


def test_a_network_that_is_down_is_unreachable(
    hub: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert isinstance(refusal("org/name"), SourceUnreachableError)


@pytest.mark.parametrize(
    ("raised", "unreachable", "said"),
    [
        (HTTPError("the connection broke"), True, "cannot be reached"),
        (OfflineModeIsEnabled("offline"), True, "cannot be reached"),
        (LocalEntryNotFoundError("the snapshot is incomplete"), True, "not wholly"),
        (OSError(errno.ENOSPC, "No space left on device"), False, "No space left on device"),
    ],
)
def test_a_download_that_breaks_off_is_a_source_error(
    raised: Exception, unreachable: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise raised

    monkeypatch.setattr(sources, "snapshot_download", download)
    error = refusal("org/name", kind="model")
    assert isinstance(error, SourceUnreachableError) == unreachable
    assert said in str(error)
