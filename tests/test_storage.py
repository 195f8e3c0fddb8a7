"""Nothing is ever half-written, and a full disk is told as such."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from safetensors import SafetensorError

from lora_sku import storage
from lora_sku.errors import StorageError
from lora_sku.storage import (
    GIB,
    atomic_file,
    atomic_folder,
    cache_folder,
    require_free_space,
    storage_errors,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_gets_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.txt"
    with atomic_file(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
        assert temporary.parent == target.parent  # the same disk, or the rename is a copy
    assert target.read_text() == "whole"
    assert names(target.parent) == ["a.txt"]


def test_a_file_replaces_the_old_one(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    write_text(tmp_path / "a.txt", "né")
    assert (tmp_path / "a.txt").read_bytes() == "né".encode()
    assert names(tmp_path) == ["a.txt"]


def test_an_exception_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError), atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half \udc80", encoding="utf-8")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.mkdir()
    (target / "old").touch()
    with atomic_folder(target) as temporary:
        (temporary / "new").write_text("x")
        assert names(target) == ["old"]
    assert names(target) == ["new"]
    assert names(tmp_path) == ["f"]


def test_a_process_killed_while_it_replaces_a_folder_leaves_both_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "f"
    (target / "deep").mkdir(parents=True)
    (target / "deep" / "old").touch()

    def killed(folder: Path, **_: object) -> None:
        if folder.exists():
            seen.append([names(target), names(folder)])

    seen: list[list[list[str]]] = []
    with monkeypatch.context() as patch, atomic_folder(target) as temporary:
        (temporary / "new").touch()
        patch.setattr(storage.shutil, "rmtree", killed)
    # When the first thing is removed, the new folder has its name already.
    assert seen[0] == [["new"], ["deep"]]


def test_an_exception_leaves_the_old_folder_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(UnicodeEncodeError), atomic_folder(target) as temporary:
        (temporary / "new").write_text("half \udc80", encoding="utf-8")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["f"]


def test_contents_reach_the_disk_before_the_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(storage, "_sync", lambda file: synced.append(file.read_text()))
    write_text(tmp_path / "a.txt", "one")
    with atomic_folder(tmp_path / "f") as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "b.txt").write_text("two")
        assert synced == ["one"]
    assert synced == ["one", "two"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
def test_files_and_folders_get_ordinary_modes_not_a_temporarys(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
        with atomic_folder(tmp_path / "f") as temporary:
            (temporary / "private").touch(mode=0o600)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "f" / "private").stat().st_mode) == 0o640


Writer = Callable[[Path], AbstractContextManager[Path]]


@pytest.mark.parametrize("writer", [atomic_file, atomic_folder])
@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "no space left"),
        (errno.EACCES, "may not be written"),
        (errno.EROFS, "may not be written"),
        (errno.EEXIST, "stands in the way"),
    ],
)
def test_the_systems_refusal_becomes_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, problem: str, writer: Writer
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    target = tmp_path / "a"
    monkeypatch.setattr(storage, "_sync", refuse)
    with pytest.raises(StorageError, match=problem) as caught, writer(target) as temporary:
        (temporary if temporary.is_file() else temporary / "b").write_text("x")
    assert caught.value.where == str(target)
    assert caught.value.remedy
    assert names(tmp_path) == []


def test_a_full_disk_is_recognised_in_safetensors_own_error(tmp_path: Path) -> None:
    # safetensors tells the system's number in its text only.
    with pytest.raises(StorageError, match="no space left"), storage_errors(tmp_path):
        raise SafetensorError("I/O error: No space left on device (os error 28)")
    with pytest.raises(SafetensorError, match="header"), storage_errors(tmp_path):
        raise SafetensorError("Error while deserializing header: 28")


def test_another_fault_of_the_system_keeps_its_own_type(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="5") as caught, storage_errors(tmp_path):
        raise OSError(errno.EIO, "input/output error")
    assert caught.value.errno == errno.EIO


def test_a_file_in_the_way_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine")
    with pytest.raises(StorageError, match="stands in the way"), atomic_folder(tmp_path / "f"):
        pass
    with (
        pytest.raises(StorageError, match="stands in the way"),
        atomic_folder(tmp_path / "f" / "g"),
    ):
        pass
    assert (tmp_path / "f").read_text() == "mine"
    assert names(tmp_path) == ["f"]


def test_json_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": 1.5})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "é": 1.5\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert "1.5" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_too_little_space_is_refused_with_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage(tmp_path))(4 * GIB, 2 * GIB, 2 * GIB)
    asked: list[Path] = []

    def disk_usage(path: Path) -> object:
        asked.append(path)
        return usage

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    not_there_yet = tmp_path / "runs" / "new"
    require_free_space(not_there_yet, 2 * GIB)
    with pytest.raises(StorageError, match=r"2\.00 GiB free.*write 2\.50 GiB") as caught:
        require_free_space(not_there_yet, 5 * GIB // 2)
    assert caught.value.where == str(not_there_yet)
    assert asked == [tmp_path, tmp_path]
    assert not not_there_yet.exists()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORA_SKU_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("LORA_SKU_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/lora-sku")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder() == tmp_path / ".cache" / "lora-sku"
