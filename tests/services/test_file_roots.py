import os
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_tools.answers.errors import Forbidden, InvalidArgument, NotFound
from trio_tools.files import roots as roots_module
from trio_tools.files.roots import FileRoots

SECRET = b"outside"
INSIDE = b"inside"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return build(tmp_path)


def build(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "note.txt").write_bytes(INSIDE)
    (root / "sub" / "deep.txt").write_bytes(INSIDE)
    (tmp_path / "secret.txt").write_bytes(SECRET)
    (tmp_path / "rooted").mkdir()  # a name that begins like the root's
    (tmp_path / "rooted" / "secret.txt").write_bytes(SECRET)
    (root / "inner").symlink_to("sub")
    (root / "out").symlink_to("../secret.txt")
    (root / "up").symlink_to("..")
    (root / "absolute").symlink_to(tmp_path / "secret.txt")
    (root / "circle").symlink_to("circle")
    (root / "gone").symlink_to("nowhere")
    return tmp_path


def read(roots: FileRoots, path: str) -> bytes:
    with roots.open_binary(path) as file:
        return file.read()


def test_a_file_is_read_by_relative_and_by_absolute_path(top):
    roots = FileRoots([top / "root"])
    for path in ("note.txt", "sub/deep.txt", "./sub/../note.txt", "inner/deep.txt"):
        assert read(roots, path) == INSIDE
        assert read(roots, str(top / "root" / path)) == INSIDE
    assert roots.resolve("inner/deep.txt") == (top / "root" / "sub" / "deep.txt").resolve()


@pytest.mark.parametrize(
    "path",
    ["../secret.txt", "sub/../../secret.txt", "out", "up/secret.txt", "absolute", "/etc/passwd"],
)
def test_a_path_that_ends_outside_is_forbidden_and_names_the_setting(top, path):
    roots = FileRoots([top / "root"])
    with pytest.raises(Forbidden) as caught:
        read(roots, path)
    assert caught.value.error_code == "OUTSIDE_FILE_ROOTS"
    assert "file_roots" in caught.value.remediation
    assert caught.value.data == {"file_roots": [str((top / "root").resolve())]}


def test_outside_the_answer_does_not_tell_what_exists(top):
    roots = FileRoots([top / "root"])
    answers = set()
    for path in ("../secret.txt", "../no-secret"):
        with pytest.raises(Forbidden) as caught:
            roots.open_binary(path)
        answers.add(caught.value.message.replace(repr(path), "it"))
    assert len(answers) == 1


def test_nothing_outside_is_looked_at(top, monkeypatch):
    """So no answer, and no time that it takes, tells what exists there."""
    (top / "root" / "proc").symlink_to("/proc/self/cwd/secret.txt")
    (top / "root" / "loop").symlink_to(top / "loop")
    (top / "loop").symlink_to(top / "loop")
    outside = [
        "/bin/../etc/passwd",
        f"/proc/{os.getpid()}/root{top}/root/note.txt",
        f"/proc/999999/root{top}/root/note.txt",
        f"{top}/loop",
        f"{top}/none/../secret.txt",
        "proc",
        "loop",
        "up/root/note.txt",
    ]
    looked_at = []
    for name in ("stat", "lstat", "readlink", "open"):
        used = getattr(os, name)

        def look(path, *args, used=used, dir_fd=None, **options):
            looked_at.append((path, dir_fd))
            return used(path, *args, dir_fd=dir_fd, **options)

        monkeypatch.setattr(os, name, look)
    roots = FileRoots([top / "root"])
    looked_at.clear()
    answers = set()
    for path in outside:
        with pytest.raises(Forbidden) as caught:
            roots.open_binary(path)
        answers.add(caught.value.message.replace(repr(path), "it"))
    monkeypatch.undo()
    assert len(answers) == 1
    root = str((top / "root").resolve())
    assert {path for path, folder in looked_at if folder is None} <= {root}
    assert all("/" not in path for path, folder in looked_at if folder is not None)


def test_a_way_around_by_words_alone_leads_back_inside(top):
    roots = FileRoots([top / "root"])
    for path in (f"/bin/..{top}/root/note.txt", f"/none/..{top}/root/note.txt"):
        assert read(roots, path) == INSIDE


def test_a_link_may_name_a_root_as_the_operator_did(top):
    (top / "alias").symlink_to("root")
    (top / "root" / "by alias").symlink_to(top / "alias" / "note.txt")
    assert read(FileRoots([top / "alias"]), "by alias") == INSIDE
    with pytest.raises(Forbidden):
        FileRoots([top / "root"]).open_binary("by alias")


def test_a_sibling_that_begins_like_the_root_is_outside(top):
    with pytest.raises(Forbidden):
        read(FileRoots([top / "root"]), str(top / "rooted" / "secret.txt"))


def test_without_roots_every_path_is_forbidden(top):
    with pytest.raises(Forbidden):
        FileRoots([]).open_binary(str(top / "secret.txt"))


def test_the_first_root_that_has_the_file_gives_it(top):
    (top / "rooted" / "note.txt").write_bytes(b"second")
    (top / "rooted" / "only.txt").write_bytes(b"second")
    roots = FileRoots([top / "root", top / "rooted"])
    assert read(roots, "note.txt") == INSIDE
    assert read(roots, "only.txt") == b"second"
    with pytest.raises(NotFound):
        roots.open_binary("nowhere.txt")


@pytest.mark.parametrize("path", ["nowhere", "sub/nowhere", "note.txt/below", "gone"])
def test_what_is_missing_is_not_found(top, path):
    with pytest.raises(NotFound):
        FileRoots([top / "root"]).open_binary(path)


@pytest.mark.parametrize("path", ["", ".", "sub", "inner"])
def test_a_folder_is_not_a_file(top, path):
    with pytest.raises(InvalidArgument) as caught:
        FileRoots([top / "root"]).open_binary(path)
    assert caught.value.error_code == "IS_A_FOLDER"


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "x" * 300, "a/" * 4000, "circle"])
def test_what_no_file_can_be_called_is_refused_as_an_argument(top, path):
    with pytest.raises((InvalidArgument, NotFound, Forbidden)) as caught:
        FileRoots([top / "root"]).open_binary(path)
    assert not isinstance(caught.value, Forbidden) or path == "circle"


def test_a_pipe_is_refused_without_waiting_for_its_other_end(top):
    os.mkfifo(top / "root" / "pipe")
    with pytest.raises(InvalidArgument) as caught:
        FileRoots([top / "root"]).open_binary("pipe")
    assert caught.value.error_code == "NOT_A_REGULAR_FILE"


def test_a_socket_is_refused():
    with tempfile.TemporaryDirectory(prefix="s") as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/socket")
        with pytest.raises(InvalidArgument) as caught:
            FileRoots([Path(folder)]).open_binary("socket")
    assert caught.value.error_code == "NOT_A_REGULAR_FILE"


def test_a_device_is_refused_even_under_a_root():
    with pytest.raises(InvalidArgument) as caught:
        FileRoots([Path("/dev")]).open_binary("null")
    assert caught.value.error_code == "NOT_A_REGULAR_FILE"


def test_a_file_above_the_bound_is_refused_before_it_is_read(top):
    roots = FileRoots([top / "root"], max_file_bytes=5)
    with pytest.raises(InvalidArgument) as caught:
        roots.open_binary("note.txt")
    assert caught.value.error_code == "TOO_LARGE"
    assert caught.value.data == {"max_bytes": 5}
    with pytest.raises(InvalidArgument):
        FileRoots([top / "root"]).open_binary("note.txt", max_bytes=5)


def test_refusing_a_file_closes_it(top):
    roots = FileRoots([top / "root"], max_file_bytes=5)
    before = set(Path("/dev/fd").iterdir())
    for path in ("note.txt", "sub", "nowhere", "sub/nowhere", "note.txt/below"):
        with pytest.raises((InvalidArgument, NotFound)):
            roots.open_binary(path)
    assert set(Path("/dev/fd").iterdir()) == before


@pytest.mark.parametrize("swapped", ["note.txt", "sub/deep.txt"])
def test_a_link_put_in_place_between_check_and_open_leads_nowhere(top, monkeypatch, swapped):
    open_beneath = roots_module.open_beneath

    def swap_first(place, flags):
        first = top / "root" / swapped.split("/")[0]
        first.rename(top / "moved")
        first.symlink_to(top / "secret.txt" if first.name == "note.txt" else top)
        (top / "deep.txt").write_bytes(SECRET)
        return open_beneath(place, flags)

    monkeypatch.setattr(roots_module, "open_beneath", swap_first)
    with pytest.raises((Forbidden, NotFound)):
        FileRoots([top / "root"]).open_binary(swapped)


def test_a_root_must_be_a_folder(top):
    with pytest.raises(ValueError, match=r"file_roots: .* is not a folder: create it first"):
        FileRoots([top / "secret.txt"])


def test_a_folder_is_listed_in_order_and_in_parts(top):
    folder = top / "root" / "sub"
    for name in ("b", "a", "c"):
        (folder / name).touch()
    (folder / "link").symlink_to("a")
    (folder / "folder").mkdir()
    roots = FileRoots([top / "root"])
    assert [entry.name for entry in roots.list_folder("sub", count=3)] == ["a", "b", "c"]
    assert roots.list_folder("sub", after="c", count=3) == [("deep.txt", False), ("link", True)]
    with pytest.raises(Forbidden):
        roots.list_folder("..", count=1)
    with pytest.raises(NotFound):
        roots.list_folder("nowhere", count=1)
    with pytest.raises(NotFound):
        roots.list_folder("note.txt", count=1)


PARTS = ["..", ".", "", "sub", "inner", "up", "out", "absolute", "root", "note.txt", "secret.txt"]


@given(st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=8), st.booleans())
@example(parts=["up", "secret.txt"], absolute=False)
def test_no_path_whatever_reads_a_byte_from_outside(parts, absolute):
    with tempfile.TemporaryDirectory() as folder:
        top = build(Path(folder))
        path = "/".join(parts)
        if absolute:
            path = f"{top}/root/{path}"
        try:
            content = read(FileRoots([top / "root"]), path)
        except (Forbidden, NotFound, InvalidArgument):
            return
        assert content == INSIDE


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_each_method_closes_what_it_opened(top):
    roots = FileRoots([top / "root"])
    before = set(Path("/proc/self/fd").iterdir())
    assert roots.is_folder("sub")
    assert not roots.is_folder("note.txt")
    assert not roots.is_folder("nowhere")
    assert [entry.name for entry in roots.list_folder("sub", count=10)] == ["deep.txt"]
    with pytest.raises(NotFound):
        roots.list_folder("nowhere", count=10)
    assert read(roots, "sub/deep.txt") == INSIDE
    os.close(roots.open_folder_of(roots.resolve("note.txt")))
    assert set(Path("/proc/self/fd").iterdir()) == before


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("nowhere/below/../other", "nowhere/other"),
        ("nowhere/../note.txt", "note.txt"),
        ("note.txt/below/../../sub/deep.txt", "sub/deep.txt"),
    ],
)
def test_dots_after_a_missing_component_go_up_by_words(top, path, place):
    root = (top / "root").resolve()
    assert FileRoots([root]).resolve(path) == root / place


def test_dots_after_a_missing_component_do_not_leave_the_root(top):
    with pytest.raises(Forbidden):
        FileRoots([top / "root"]).resolve("nowhere/../../secret.txt")


def test_the_first_root_that_has_a_file_in_a_folder_gives_it(top):
    (top / "other" / "sub").mkdir(parents=True)
    roots = FileRoots([top / "other", top / "root"])
    assert read(roots, "sub/deep.txt") == INSIDE
    (top / "other" / "sub" / "deep.txt").write_bytes(b"first")
    assert read(roots, "sub/deep.txt") == b"first"
