"""Hashing, compression and datasets, as their callers run them: in worker threads."""

import base64
import gzip
import hashlib
import lzma
import os
import zlib
from functools import partial

import pytest
import trio
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from nursery_patterns import run_in_thread
from trio_tools.answers.errors import InvalidArgument, NotFound
from trio_tools.files.compression import (
    ALGORITHMS,
    _ZstdEncoder,
    compress_file,
    compress_text,
    decompress_text,
)
from trio_tools.files.datasets import Dataset, DatasetItem, DatasetKind
from trio_tools.files.hashing import ALGORITHMS as HASHES
from trio_tools.files.hashing import hash_file, hash_text
from trio_tools.files.roots import FileRoots

GIGABYTE = 2**30


@pytest.fixture
def roots(tmp_path):
    return FileRoots([tmp_path])


def in_thread(fn, *args, **options):
    return run_in_thread(partial(fn, *args, **options))


@pytest.mark.parametrize("algorithm", HASHES)
async def test_a_digest_is_the_same_for_a_text_and_a_file(roots, tmp_path, algorithm):
    text = "grüße " * 200_000
    (tmp_path / "text").write_text(text, encoding="utf-8")
    of_text = await in_thread(hash_text, text, algorithm=algorithm)
    assert of_text == await in_thread(hash_file, roots, "text", algorithm=algorithm)
    assert of_text.hexdigest == hashlib.new(algorithm, text.encode()).hexdigest()
    assert of_text.size_bytes == len(text.encode())
    assert of_text.secure is (algorithm not in {"md5", "sha1"})


async def test_an_unknown_algorithm_is_answered_with_the_known_ones(roots):
    for fn, arguments in ((hash_text, ("a",)), (hash_file, (roots, "nowhere"))):
        with pytest.raises(InvalidArgument) as caught:
            await in_thread(fn, *arguments, algorithm="shake_128")
        assert caught.value.data == {"algorithms": list(HASHES)}
    with pytest.raises(InvalidArgument) as caught:
        await in_thread(compress_text, "a", algorithm="rar")
    assert caught.value.data == {"algorithms": list(ALGORITHMS)}


@pytest.mark.parametrize("fn", [hash_text, compress_text])
async def test_text_with_a_lone_surrogate_is_refused_with_its_position(fn):
    with pytest.raises(InvalidArgument) as caught:
        await in_thread(fn, "ab\ud800")
    assert caught.value.error_code == "NOT_TEXT"
    assert "character 2" in caught.value.message


def read_its_only_line(roots, path):
    return Dataset(roots, path, DatasetKind.JSON_LINES).read_chunk()


@pytest.mark.parametrize(
    "work",
    [hash_file, partial(compress_file, max_input_bytes=GIGABYTE), read_its_only_line],
)
async def test_a_cancel_stops_the_work_on_a_gigabyte_within_a_chunk(roots, tmp_path, work):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(GIGABYTE)
    with trio.move_on_after(0.05) as scope:
        await in_thread(work, roots, "large")
    assert scope.cancelled_caught  # the thread has ended: it was not abandoned


def test_zstd_gives_out_a_block_for_every_32_kib():
    # Left alone it would gather four times that, and see no cancel while it compresses them.
    encoder, chunk = _ZstdEncoder(3), os.urandom(8_192)
    assert [bool(encoder.compress(chunk)) for _ in range(8)] == 2 * [False, False, False, True]


async def test_a_file_that_grows_while_it_is_read_is_not_followed(roots, tmp_path):
    (tmp_path / "log").write_bytes(bytes(3_000_000))
    opened = roots.open_binary

    def open_and_grow(path, **options):
        file = opened(path, **options)
        (tmp_path / "log").write_bytes(bytes(6_000_000))
        return file

    roots.open_binary = open_and_grow
    with pytest.raises(InvalidArgument) as caught:
        await in_thread(compress_file, roots, "log", max_input_bytes=4_000_000)
    assert caught.value.error_code == "TOO_LARGE"


UNFOLD = {
    "zlib": zlib.decompress,
    "gzip": gzip.decompress,
    "lzma": lzma.decompress,
    "zstd": zstd.decompress,
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("level", ["least", "default", "most"])
async def test_what_is_compressed_can_be_read_by_anyone(roots, tmp_path, algorithm, level):
    text = "".join(f"{number} bottles\n" for number in range(20_000))
    (tmp_path / "text").write_text(text)
    levels = {"least": 1, "default": None, "most": 11 if algorithm == "zstd" else 9}
    options = {"algorithm": algorithm, "level": levels[level], "max_output_bytes": 1_000_000}
    result = await in_thread(compress_text, text, **options)
    assert result == await in_thread(compress_file, roots, "text", **options)
    content = base64.b64decode(result.content_base64)
    assert UNFOLD[algorithm](content) == text.encode()
    assert (result.original_bytes, result.compressed_bytes) == (len(text), len(content))
    assert result.ratio == len(content) / len(text)
    again = await in_thread(decompress_text, result.content_base64, algorithm=algorithm)
    assert again == text


async def test_without_a_wish_for_the_content_there_are_only_sizes():
    result = await in_thread(compress_text, "a" * 1000, algorithm="gzip")
    assert (result.content_base64, result.content_left_out) == (None, False)
    result = await in_thread(compress_text, "a" * 1000, algorithm="gzip", max_output_bytes=5)
    assert (result.content_base64, result.content_left_out) == (None, True)
    assert (await in_thread(compress_text, "")).ratio is None


@pytest.mark.parametrize(
    ("algorithm", "level", "bounds"),
    [("zlib", 10, "0 (fast) to 9"), ("lzma", -1, "0 (fast) to 9"), ("zstd", 19, "1 (fast) to 11")],
)
async def test_a_level_out_of_range_is_answered_with_the_range(algorithm, level, bounds):
    with pytest.raises(InvalidArgument) as caught:
        await in_thread(compress_text, "a", algorithm=algorithm, level=level)
    assert bounds in caught.value.message


async def test_input_above_the_bound_is_refused(roots, tmp_path):
    (tmp_path / "text").write_bytes(bytes(11))
    for work in (partial(compress_text, "a" * 11), partial(compress_file, roots, "text")):
        with pytest.raises(InvalidArgument) as caught:
            await in_thread(work, max_input_bytes=10)
        assert caught.value.error_code == "TOO_LARGE"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_decompression_bomb_stops_at_the_bound(algorithm):
    bomb = await in_thread(
        compress_text, "0" * 20_000_000, algorithm=algorithm, max_output_bytes=100_000
    )
    with pytest.raises(InvalidArgument) as caught:
        await in_thread(decompress_text, bomb.content_base64, algorithm=algorithm)
    assert caught.value.error_code == "TOO_LARGE"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"plain text", "NOT_COMPRESSED"),
        (b"", "NOT_COMPRESSED"),
        ("half", "NOT_COMPRESSED"),
        ("two", "NOT_COMPRESSED"),
        ("more", "NOT_COMPRESSED"),
        ("not text", "NOT_TEXT"),
    ],
)
async def test_what_is_no_compressed_text_says_what_it_is(algorithm, content, code):
    packers = {
        "zlib": zlib.compress,
        "gzip": gzip.compress,
        "lzma": lzma.compress,
        "zstd": zstd.compress,
    }
    if content == "half":
        whole = packers[algorithm](bytes(range(200)) * 10)
        content = whole[: len(whole) // 2]
    elif content == "two":
        content = packers[algorithm](b"one") + packers[algorithm](b"two")
    elif content == "more":
        content = packers[algorithm](b"one") + b"something else"
    elif content == "not text":
        content = packers[algorithm](b"ok \xff\xfe")
    with pytest.raises(InvalidArgument) as caught:
        await in_thread(decompress_text, base64.b64encode(content).decode(), algorithm=algorithm)
    assert caught.value.error_code == code


@pytest.mark.parametrize("text", ["not base64!", "abc", "ä"])
async def test_what_is_not_base64_is_named_as_such(text):
    with pytest.raises(InvalidArgument) as caught:
        await in_thread(decompress_text, text, algorithm="zlib")
    assert caught.value.error_code == "NOT_BASE64"


async def read_all(dataset, size):
    items, position = [], None
    while True:
        chunk = await run_in_thread(dataset.read_chunk, position, size)
        assert len(chunk.items) <= size
        items += chunk.items
        position = chunk.next_position
        if position is None:
            return items


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_json_lines_come_in_order_and_bad_ones_are_named(roots, tmp_path, size):
    (tmp_path / "d.jsonl").write_bytes(
        b'\xef\xbb\xbf{"a": 1}\n\n{"a":\r\n\xff\n[2]\n' + b"[" * 100_000 + b'\n"last"'
    )
    good, torn, bytes_, two, deep, last = await read_all(Dataset(roots, "d.jsonl"), size)
    assert (good, two, last) == (
        DatasetItem(1, {"a": 1}),
        DatasetItem(5, [2]),
        DatasetItem(7, "last"),
    )
    assert torn.error == "line 3: Expecting value at column 6"
    assert bytes_.error.startswith("line 4: 'utf-8' codec can't decode byte 0xff")
    assert deep.error.startswith("line 6: ")


@pytest.mark.parametrize("size", [1, 2, 100])
async def test_csv_records_are_named_by_the_header_and_may_span_lines(roots, tmp_path, size):
    (tmp_path / "d.csv").write_bytes(b'a,b\n1,"x\ny"\r\n\n2\n3,"q" \n4,\xff\n5,z\n')
    items = await read_all(Dataset(roots, "d.csv"), size)
    assert items[0] == DatasetItem(3, {"a": "1", "b": "x\ny"})
    assert items[1] == DatasetItem(5, {"a": "2", "b": None})
    assert items[2] == DatasetItem(6, {"a": "3", "b": "q "})
    assert items[3].error.startswith("line 7: 'utf-8' codec")
    assert items[4] == DatasetItem(8, {"a": "5", "b": "z"})
    assert len(items) == 5


async def test_a_record_without_end_is_an_error_and_not_the_rest_of_memory(roots, tmp_path):
    (tmp_path / "d.csv").write_bytes(b'a\n"' + b"x" * 3_000_000 + b"\n1\n")
    (tmp_path / "d.jsonl").write_bytes(b'"' + b"x" * 3_000_000 + b'"\n1\n')
    long, after = await read_all(Dataset(roots, "d.jsonl"), 10)
    assert long.error == "line 1: the record is longer than 1,000,000 bytes"
    assert after == DatasetItem(2, 1)
    (long,) = await read_all(Dataset(roots, "d.csv"), 10)  # nothing closes its quote
    assert long.error == "line 3: the record is longer than 1,000,000 bytes"


async def test_a_chunk_ends_early_when_its_records_are_large(roots, tmp_path):
    record = b'"' + b"x" * 900_000 + b'"\n'
    (tmp_path / "d.jsonl").write_bytes(record * 20)
    chunk = await run_in_thread(Dataset(roots, "d.jsonl").read_chunk, None, 20)
    assert len(chunk.items) == 9
    assert len(await read_all(Dataset(roots, "d.jsonl"), 20)) == 20


@pytest.mark.parametrize("size", [1, 2, 3, 4])
async def test_a_folder_gives_its_files_as_paths(roots, tmp_path, size):
    for name in ("b", "c", "a"):
        (tmp_path / name).touch()
    items = await read_all(Dataset(roots, "."), size)
    assert [item.value for item in items] == [str(tmp_path.resolve() / name) for name in "abc"]


async def test_a_name_that_is_no_text_is_a_bad_item_and_holds_up_no_other(roots, tmp_path):
    for name in (b"a", b"b\xff", b"c"):
        (tmp_path / os.fsdecode(name)).touch()
    a, b, c = await read_all(Dataset(roots, "."), 2)
    assert [a.value, c.value] == [str(tmp_path.resolve() / name) for name in "ac"]
    assert (b.value, b.error) == (None, "the file name b'b\\xff' is not UTF-8")


async def test_an_empty_dataset_has_no_items(roots, tmp_path):
    (tmp_path / "d.jsonl").touch()
    (tmp_path / "d.csv").write_bytes(b"a,b\n")
    (tmp_path / "folder").mkdir()
    for path in ("d.jsonl", "d.csv", "folder"):
        assert await read_all(Dataset(roots, path), 5) == []


@pytest.mark.parametrize(
    "position", ["", "x", "3", "-1:0", "3:1", "1:1:1", "9999:9", "9" * 30 + ":1", "²:1"]
)
@pytest.mark.parametrize("name", ["d.jsonl", "d.csv"])
async def test_a_position_that_was_tampered_with_is_refused(roots, tmp_path, name, position):
    (tmp_path / name).write_bytes(b"aaaa\nbbbb\n")
    with pytest.raises(InvalidArgument) as caught:
        await run_in_thread(Dataset(roots, name).read_chunk, position, 5)
    assert caught.value.error_code == "BAD_POSITION"


@pytest.mark.parametrize("header", [b"", b"\n", b"\xff\n"])
async def test_a_csv_file_must_name_its_columns(roots, tmp_path, header):
    (tmp_path / "d.csv").write_bytes(header)
    with pytest.raises(InvalidArgument) as caught:
        await run_in_thread(Dataset(roots, "d.csv").read_chunk)
    assert caught.value.error_code == "BAD_HEADER"


async def test_the_kind_is_asked_for_where_the_name_does_not_tell(roots, tmp_path):
    (tmp_path / "data").write_bytes(b"1\n")
    with pytest.raises(InvalidArgument) as caught:
        await run_in_thread(Dataset(roots, "data").read_chunk)
    assert caught.value.error_code == "UNKNOWN_DATASET_KIND"
    chunk = await run_in_thread(Dataset(roots, "data", DatasetKind.JSON_LINES).read_chunk)
    assert chunk.items == (DatasetItem(1, 1),)
    with pytest.raises(NotFound):
        await run_in_thread(Dataset(roots, "nowhere.csv").read_chunk)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=30), st.integers(1, 7))
def test_reading_in_chunks_loses_and_repeats_nothing(tmp_path_factory, texts, size):
    import csv  # noqa: PLC0415
    import io  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("datasets")
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in texts)])
    (folder / "d.csv").write_bytes(written.getvalue().encode())
    items = trio.run(read_all, Dataset(FileRoots([folder]), "d.csv"), size)
    assert [item.value for item in items] == [{"text": text} for text in texts]
