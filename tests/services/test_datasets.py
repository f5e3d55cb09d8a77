"""Datasets as people have them: each file gives the records that its writer meant."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import zipfile

import pytest
import trio
from backports import zstd
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nursery_patterns import run_in_thread
from trio_tools.answers.errors import InvalidArgument, NotFound
from trio_tools.files.datasets import Dataset
from trio_tools.files.roots import FileRoots


async def read_all(dataset, size=1_000):
    """Return all items and warnings."""
    items, warnings, position = [], [], None
    while True:
        chunk = await run_in_thread(dataset.read_chunk, position, size)
        assert len(chunk.items) <= size
        items += chunk.items
        warnings += chunk.warnings
        position = chunk.next_position
        if position is None:
            return items, warnings


async def values_of(tmp_path, name, content, size=1_000, **options):
    (tmp_path / name).write_bytes(content)
    items, _ = await read_all(Dataset(FileRoots([tmp_path]), name, **options), size)
    assert [item.error for item in items if item.error] == []
    return [item.value for item in items]


AB = [{"text": "a", "n": "1"}, {"text": "b", "n": "2"}]
CAFE = [{"text": "café", "n": "1"}]
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたか頓と見当がつかぬ。"
FILES = {
    "semicolon.csv": (b"text;n\na;1\nb;2\n", AB),
    "decimal-comma.csv": (b"text;n\na;1,5\n", [{"text": "a", "n": "1,5"}]),
    "tabs.csv": (b"text\tn\na\t1\nb\t2\n", AB),
    "tabs.tsv": (b"text\tn\na,x\t1\n", [{"text": "a,x", "n": "1"}]),
    "pipes.csv": (b"text|n\na|1\nb|2\n", AB),
    "said.csv": (b"sep=;\r\ntext;n\r\na;1\r\nb;2\r\n", AB),
    "one-column.csv": (b"text\na\n", [{"text": "a"}]),
    "cr.csv": (b"text,n\ra,1\rb,2\r", AB),
    "crlf.csv": (b"text,n\r\na,1\r\n\r\nb,2", AB),
    "blank-first.csv": (b"\ntext,n\na,1\nb,2\n", AB),
    "blank-names.csv": (
        b"text,n,,\na,1,,\n",
        [{"text": "a", "n": "1", "Unnamed: 2": "", "Unnamed: 3": ""}],
    ),
    "one-name-twice.csv": (b"n,n,n.1\n1,2,3\n", [{"n": "1", "n.1": "2", "n.1.1": "3"}]),
    "trailing.csv": (b"text,n\na,1,,\n", [{"text": "a", "n": "1"}]),
    "short-row.csv": (b"text,n\na\nb,2\n", [{"text": "a", "n": None}, AB[1]]),
    "quotes.csv": (b'text,n\n"a ""b""",5" pipe\n', [{"text": 'a "b"', "n": '5" pipe'}]),
    "wide-field.csv": (
        b'text,n\n"' + b"x" * 200_000 + b'",1\n',
        [{"text": "x" * 200_000, "n": "1"}],
    ),
    "latin-1.csv": ("text,n\ncafé,1\n".encode("latin-1"), CAFE),
    "mark.csv": (b"\xef\xbb\xbf" + "text,n\ncafé,1\n".encode(), CAFE),
    "utf-16.csv": ("text,n\ncafé,1\n".encode("utf-16"), CAFE),
    "utf-16-be.csv": ("text,n\ncafé,1\n".encode("utf-16-be"), CAFE),
    "utf-32.csv": ("text,n\ncafé,1\n".encode("utf-32"), CAFE),
    "cp1251.csv": (f'text\n"{RUSSIAN}"\n'.encode("cp1251"), [{"text": RUSSIAN}]),
    "shift-jis.csv": (f"text\n{JAPANESE}\n".encode("shift_jis"), [{"text": JAPANESE}]),
    "packed.csv.gz": (gzip.compress(b"text,n\na,1\nb,2\n"), AB),
    "members.csv.gz": (gzip.compress(b"text,n\na,1\n") + gzip.compress(b"b,2\n"), AB),
    "packed.csv.bz2": (bz2.compress(b"text,n\na,1\nb,2\n"), AB),
    "packed.csv.xz": (lzma.compress(b"text,n\na,1\nb,2\n"), AB),
    "packed.csv.zst": (zstd.compress(b"text,n\na,1\nb,2\n"), AB),
    "packed.without-saying.csv": (gzip.compress(b"text,n\na,1\nb,2\n"), AB),
    "packed.jsonl.gz": (gzip.compress(b'{"a": 1}\n{"a": 2}\n'), [{"a": 1}, {"a": 2}]),
    "array.json": (b'[{"text":"a"},{"text":"b"}]', [{"text": "a"}, {"text": "b"}]),
    "array-of-lines.json": (
        b'[\n  1,\n  "]",\n  [2, 3],\n  {"a": {}}\n]\n',
        [1, "]", [2, 3], {"a": {}}],
    ),
    "values-after.json": (b"[1, 2]\n[3]\n", [1, 2, [3]]),
    "values.json": (b'{"a":\n 1}\n{"a": 2} 3', [{"a": 1}, {"a": 2}, 3]),
    "empty-array.json": (b"[]", []),
    "lines.txt": (b"a\nb\n\nc", [{"text": "a"}, {"text": "b"}, {"text": "c"}]),
    "utf-16.txt": ("a\ncafé\n".encode("utf-16"), [{"text": "a"}, {"text": "café"}]),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [1, 1_000])
async def test_a_file_gives_the_records_that_its_writer_meant(tmp_path, name, size):
    content, expected = FILES[name]
    assert await values_of(tmp_path, name, content, size) == expected


async def test_what_the_operator_says_counts_more_than_a_guess(tmp_path):
    text = "text:n\nżółw:1\n".encode("cp1250")
    values = await values_of(tmp_path, "d.csv", text, encoding="cp1250", delimiter=":")
    assert values == [{"text": "żółw", "n": "1"}]
    with pytest.raises(InvalidArgument) as caught:
        await values_of(tmp_path, "d.csv", text, encoding="klingon")
    assert caught.value.error_code == "UNKNOWN_ENCODING"


async def test_what_was_guessed_and_what_going_on_costs_is_said(tmp_path):
    (tmp_path / "d.csv").write_bytes("text\ncafé\n".encode("latin-1"))
    _, warnings = await read_all(Dataset(FileRoots([tmp_path]), "d.csv"))
    (guessed,) = warnings
    assert guessed.startswith("'d.csv' is not UTF-8 and was read as cp1252, which is a guess")
    (tmp_path / "d.csv").write_bytes(gzip.compress(b"text\na\nb\n"))
    _, warnings = await read_all(Dataset(FileRoots([tmp_path]), "d.csv"), 1)
    (packed,) = warnings
    assert packed.startswith("'d.csv' is packed with gzip: each chunk reads it again")


LETTER = (
    b'id,text\n1,"hello"\n2,"Dear all,\nthe price is \x80 5\n3,THIS IS PART OF THE LETTER\n4,THIS '
    b'TOO\nregards"\n5,"bye"\n'
)
LONG = b"one line of an article\n" * 60_000


@pytest.mark.parametrize("size", [1, 2, 1_000])
@pytest.mark.parametrize(
    ("content", "good", "told"),
    [
        (LETTER, ["hello", "bye"], "line 7: 'utf-8' codec can't decode byte 0x80"),
        (b'id,text\n1,"' + LONG + b'"\n2,b\n', ["b"], "line 60002: the record is longer than 1"),
        (b"id,text\n1," + b"x" * 2_500_000 + b"\n2,b\n", ["b"], "line 2: the record is longer"),
        (b'id,text\n1,a\n2,"cut\n3,b\n4,c\n', ["a"], "line 3: the quote of its last field is"),
        (b"id,text\n1,a,b\n2,b\n", ["b"], "line 2: the record has 3 fields, the header names 2"),
    ],
    ids=["bad byte", "long quoted", "long", "never closed", "too many"],
)
async def test_a_bad_record_is_one_and_the_true_next_one_follows(
    tmp_path, content, good, told, size
):
    (tmp_path / "d.csv").write_bytes(content)
    items, _ = await read_all(Dataset(FileRoots([tmp_path]), "d.csv"), size)
    assert [item.value["text"] for item in items if not item.error] == good
    (error,) = [item.error for item in items if item.error]
    assert error.startswith(told)


FIELD = st.text(st.sampled_from('ab",;\n\r\t é漢'), max_size=8)


@settings(deadline=None, max_examples=150)
@example([("", ""), ("", ""), ("é", "")], 1, "utf-8", {0, 1, 2})  # more stray bytes than letters
@given(
    st.lists(st.tuples(FIELD, FIELD), max_size=12),
    st.integers(1, 5),
    st.sampled_from(["utf-8", "utf-16"]),
    st.sets(st.integers(0, 11)),
)
def test_no_field_whatever_makes_a_record(tmp_path_factory, rows, size, encoding, bad):
    """Each record comes once, whole or as one bad record, whatever is in fields and chunks."""
    folder = tmp_path_factory.mktemp("datasets")
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL).writerow(["a", "b"])
    parts = [written.getvalue().encode(encoding)]
    expected = []
    for number, row in enumerate(rows):
        written = io.StringIO()
        csv.writer(written, quoting=csv.QUOTE_ALL).writerow(row)
        raw = written.getvalue().encode(encoding.replace("utf-16", "utf-16-le"))
        is_bad = number in bad and encoding == "utf-8"
        parts.append(raw.replace(b'"', b'"\xff', 1) if is_bad else raw)
        expected.append(None if is_bad else dict(zip("ab", row, strict=True)))
    (folder / "d.csv").write_bytes(b"".join(parts))
    items, _ = trio.run(read_all, Dataset(FileRoots([folder]), "d.csv"), size)
    assert [item.value for item in items] == expected
    assert [item.error is None for item in items] == [value is not None for value in expected]


@pytest.mark.parametrize("size", [1, 7, 1_000])
async def test_an_array_is_read_on_from_any_place(tmp_path, size):
    rng = random.Random(size)
    values = [
        rng.choice([n, str(n) * rng.randrange(3_000), {"a": [n]}, [], None]) for n in range(60)
    ]
    (tmp_path / "d.json").write_text(json.dumps(values, indent=rng.choice([None, 2])))
    items, _ = await read_all(Dataset(FileRoots([tmp_path]), "d.json"), size)
    assert [item.value for item in items] == values


@pytest.mark.parametrize("size", [1, 1_000])
async def test_what_is_no_json_in_an_array_is_one_bad_item(tmp_path, size):
    long = '"' + "x" * 2_000_000 + '"'
    (tmp_path / "d.json").write_text(f'[1, nope, {{"a": 1,}}, [1, "],", }}], {long}, 2]')
    items, _ = await read_all(Dataset(FileRoots([tmp_path]), "d.json"), size)
    assert [(item.value, item.error is None) for item in items] == [
        (1, True), (None, False), (None, False), (None, False), (None, False), (2, True),
    ]  # fmt: skip
    assert items[4].error == "line 1: the record is longer than 1,000,000 bytes"


@pytest.mark.parametrize("size", [1, 3, 1_000])
async def test_several_files_are_one_dataset_in_order_of_name(tmp_path, size):
    for name, rows in (("b", "3"), ("a", "1\n2"), ("c", ""), ("d", "4\n5")):
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(f"n\n{rows}\n".encode()))
    (tmp_path / "e.txt").write_text("not one of them")
    dataset = Dataset(FileRoots([tmp_path]), "*.csv.gz")
    items, _ = await read_all(dataset, size)
    assert [item.value["n"] for item in items] == ["1", "2", "3", "4", "5"]
    assert [(item.source, item.number) for item in items][2] == ("b.csv.gz", 2)
    with pytest.raises(NotFound):
        await read_all(Dataset(FileRoots([tmp_path]), "*.parquet"))
    for position in ("a.csv.gz", "z.csv.gz/", "a.csv.gz/x"):
        with pytest.raises(InvalidArgument) as caught:
            await run_in_thread(dataset.read_chunk, position)
        assert caught.value.error_code == "BAD_POSITION"


@pytest.mark.parametrize("cut", [0.3, 0.9])
async def test_a_packed_file_that_is_cut_short_ends_in_an_error(tmp_path, cut):
    whole = gzip.compress(b"n\n" + b"".join(b"%d\n" % (n * n) for n in range(200_000)))
    (tmp_path / "d.csv.gz").write_bytes(whole[: int(len(whole) * cut)])
    items, _ = await read_all(Dataset(FileRoots([tmp_path]), "d.csv.gz"), 50_000)
    assert "truncated or damaged" in items[-1].error
    assert [item.error for item in items[:-1] if item.error] == []


async def test_a_folder_of_links_is_a_folder_of_files(tmp_path):
    root = tmp_path / "root"
    (root / "blobs").mkdir(parents=True)
    (root / "snapshot").mkdir()
    (tmp_path / "secret").write_text("secret")
    for name in "ab":
        (root / "blobs" / name).write_text(name)
        (root / "snapshot" / name).symlink_to(f"../blobs/{name}")
    (root / "snapshot" / "c folder").symlink_to("../blobs")
    (root / "snapshot" / "gone").symlink_to("nowhere")
    (root / "snapshot" / "out").symlink_to("../../secret")
    items, _ = await read_all(Dataset(FileRoots([root]), "snapshot"), 2)
    folder = root.resolve() / "snapshot"
    assert [item.value for item in items] == [str(folder / "a"), str(folder / "b"), None, None]
    assert items[2].error == "'gone' is a link that leads nowhere"
    assert items[3].error.startswith("'out' is a link that leads outside the folders")


ROWS = [
    {"text": "a", "n": 1, "x": None},
    {"text": "b", "n": 2, "x": 1.5},
    {"text": "c", "n": 3, "x": 2.0},
]


async def test_tables_give_their_rows_group_by_group(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pylist(ROWS * 8)
    parquet.write_table(table, tmp_path / "d.parquet", row_group_size=4)
    with arrow.ipc.new_file(str(tmp_path / "d.arrow"), table.schema) as file:
        file.write_table(table, max_chunksize=4)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + b"\xff" * 100 + b"PAR1")
    roots = FileRoots([tmp_path])
    for name in ("d.parquet", "d.arrow"):
        for size in (2, 100):
            items, _ = await read_all(Dataset(roots, name), size)
            assert [item.value for item in items] == ROWS * 8
            assert [item.number for item in items] == list(range(1, len(items) + 1))
    with pytest.raises(InvalidArgument) as caught:
        await read_all(Dataset(roots, "bad.parquet"))
    assert caught.value.error_code == "BAD_FILE"
    with pytest.raises(InvalidArgument) as caught:
        await run_in_thread(Dataset(roots, "d.parquet").read_chunk, "x")
    assert caught.value.error_code == "BAD_POSITION"


def workbook(*sheets):
    """Return an Excel file of sheets, each a list of rows."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    numbers = range(1, len(sheets) + 1)
    listed = "".join(f'<sheet name="s{n}" sheetId="{n}" r:id="r{n}"/>' for n in numbers)
    related = "".join(
        f'<Relationship Id="r{n}" Type="{relations}/worksheet" Target="worksheets/s{n}.xml"/>'
        for n in numbers
    )
    files = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r" '
        f'Type="{relations}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{relations}"><sheets>{listed}'
        "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">{related}'
        "</Relationships>",
    }
    for number, rows in enumerate(sheets, 1):
        cells = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
        files[f"xl/worksheets/s{number}.xml"] = (
            f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData></worksheet>'
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def cell(value):
    if isinstance(value, str):
        return f'<c t="inlineStr"><is><t>{value}</t></is></c>'
    return "<c/>" if value is None else f"<c><v>{value}</v></c>"


@pytest.mark.parametrize("size", [1, 100])
async def test_a_workbook_gives_the_rows_of_its_sheets(tmp_path, size):
    pytest.importorskip("python_calamine")
    sheets = [[["text", "n"], ["a", 1], ["b", None]], [["text"], ["c"]]]
    (tmp_path / "d.xlsx").write_bytes(workbook(*sheets))
    items, _ = await read_all(Dataset(FileRoots([tmp_path]), "d.xlsx"), size)
    assert [item.value for item in items] == [
        {"text": "a", "n": 1},
        {"text": "b", "n": None},
        {"text": "c"},
    ]


async def test_a_workbook_that_expands_to_gigabytes_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("python_calamine")
    monkeypatch.setattr("trio_tools.files.table_files.WORKER_MEMORY_BYTES", 2**27)
    (tmp_path / "bomb.xlsx").write_bytes(workbook([["x" * 80_000_000]]))
    assert (tmp_path / "bomb.xlsx").stat().st_size < 1_000_000
    with pytest.raises(InvalidArgument) as caught:
        await read_all(Dataset(FileRoots([tmp_path]), "bomb.xlsx"))
    assert caught.value.error_code in {"TOO_LARGE", "BAD_FILE"}


def lying(parquet, lie):
    """Return a Parquet file whose footer does not tell the truth."""
    footer = len(parquet) - 8
    match lie:
        case "longer than the file":
            return parquet[:footer] + b"\xf0\xff\xff\x7f" + parquet[-4:]
        case "negative length":
            return parquet[:footer] + b"\xff\xff\xff\xff" + parquet[-4:]
        case "a billion rows":  # as Thrift has integers: twice the number, seven bits a byte
            start = footer - int.from_bytes(parquet[footer : footer + 4], "little")
            many = b"\x80\xa8\xd6\xb9\x07"
            told = parquet[start:footer].replace(bytes([0x16, 16 * len(ROWS)]), b"\x16" + many)
            return parquet[:start] + told + len(told).to_bytes(4, "little") + parquet[-4:]
        case _:
            return parquet[:8] + b"\xff" * (footer - 400) + parquet[footer - 392 :]


async def test_a_parquet_file_that_lies_costs_no_more_than_what_it_has(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pylist(ROWS * 8)
    parquet.write_table(table, tmp_path / "good.parquet")
    good = (tmp_path / "good.parquet").read_bytes()
    roots = FileRoots([tmp_path])
    for lie in ("longer than the file", "negative length", "broken pages"):
        (tmp_path / "bad.parquet").write_bytes(lying(good, lie))
        with trio.fail_after(300), pytest.raises(InvalidArgument) as caught:
            await read_all(Dataset(roots, "bad.parquet"))
        assert caught.value.error_code in {"BAD_FILE", "TOO_LARGE"}, lie
    (tmp_path / "bad.parquet").write_bytes(lying(good, "a billion rows"))
    items, _ = await read_all(Dataset(roots, "bad.parquet"))
    assert [item.value for item in items] == ROWS * 8  # the rows that there are
