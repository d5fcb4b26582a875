import csv
import gzip
import json
import re
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunetime.errors import InputError
from prunetime.tasks.sources import parse_csv, parse_jsonl, parse_parquet, parse_tsv, read_table

NASTY = [
    '"',
    '""',
    'a "quoted" b',
    "comma, semi;",
    " leading",
    "trailing ",
    "é",
    "日本語",
    "🙂",
    "\u2028",
    "\x0b\x0c\x85",
    "'",
    "\\t",
    "a\0b",
]

cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(NASTY)
tables = st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=6)
HEADER = ("query", "title", "label")


def columns(rows):
    return {name: [row[i] for row in rows] for i, name in enumerate(HEADER)}


def one_line(rows):
    return [tuple(re.sub(r"[\t\n\r]", " ", cell) for cell in row) for row in rows]


@given(tables, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
def test_tsv_keeps_every_character_but_tab_and_newline(rows, newline, last_newline, byte_order_mark):
    rows = one_line(rows)
    text = newline.join("\t".join(row) for row in (HEADER, *rows)) + newline * last_newline
    assert parse_tsv(text.encode("utf-8-sig" if byte_order_mark else "utf-8"), "t").columns == columns(rows)


@given(rows=tables)
def test_csv_keeps_every_character(rows):
    # the csv module of Python 3.10 takes no NUL
    rows = [tuple(cell.replace("\0", "") for cell in row) for row in rows]
    lines = (",".join(f'"{cell}"' for cell in (c.replace('"', '""') for c in row)) for row in (HEADER, *rows))
    assert parse_csv("\r\n".join(lines).encode(), "t").columns == columns(rows)


@given(tables, st.booleans())
def test_jsonl_keeps_every_character(rows, ascii_only):
    lines = (json.dumps(dict(zip(HEADER, row, strict=True)), ensure_ascii=ascii_only) for row in rows)
    assert parse_jsonl("\n".join(lines).encode(), "t").columns == columns(rows)


@given(rows=tables)
@settings(max_examples=30)
def test_parquet_keeps_every_character(rows):
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns(rows)), sink)
    assert parse_parquet(sink.getvalue().to_pybytes(), "t").columns == columns(rows)


def test_files_are_read_by_suffix(tmp_path):
    rows = [("red sofa", 'a "red" couch', "1"), ("lamp", "chair", "0")]
    tsv = "\n".join("\t".join(row) for row in (HEADER, *rows)) + "\n"
    (tmp_path / "a.tsv").write_text(tsv)
    (tmp_path / "b.TSV.gz").write_bytes(gzip.compress(tsv.encode()))
    with (tmp_path / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(dict(zip(HEADER, row, strict=True))) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.table(columns(rows)), tmp_path / "e.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert read_table(str(path)).columns == columns(rows), path


THREADS = """
import os, sys
import pyarrow.parquet
from prunetime.tasks.sources import read_table
before = set(os.listdir("/proc/self/task"))
read_table({source!r})
print(len(set(os.listdir("/proc/self/task")) - before))
"""


def test_parquet_leaves_no_thread_behind(run_python, tmp_path):
    """A thread of Arrow's that outlives the read aborts the interpreter where it lets go of the bytes at its end."""
    source = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a chair"] * 1000, "label": ["0"] * 1000}), source)
    assert run_python(THREADS.format(source=str(source))) == "0\n"


def test_values_of_json_and_parquet_become_text_and_nulls_empty(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1, "b": 0.5, "c": true}\n\n{"a": null, "b": NaN, "d": [1, "é"]}\n')
    expected = {"a": ["1", ""], "b": ["0.5", "nan"], "c": ["true", ""], "d": ["", '[1, "é"]']}
    assert read_table(str(tmp_path / "a.jsonl")).columns == expected
    parquet = pyarrow.table({"a": [1, None], "b": [0.5, float("nan")], "c": [True, None], "d": [None, [1]]})
    pyarrow.parquet.write_table(parquet, tmp_path / "a.parquet")
    assert read_table(str(tmp_path / "a.parquet")).columns == expected | {"d": ["", "[1]"]}


def test_fields_of_csv_have_any_length(tmp_path):
    long = "x" * (csv.field_size_limit() + 1)
    (tmp_path / "a.csv").write_text(f'text,label\n"{long}",1\n{long},0\n')
    limit = csv.field_size_limit()
    assert read_table(str(tmp_path / "a.csv")).columns == {"text": [long, long], "label": ["1", "0"]}
    assert csv.field_size_limit() == limit, "other readers of the process keep their limit"


NO_ENDS = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\rj"
"""What Python's `splitlines` would part, and formats of lines do not."""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_end_with_a_line_feed_and_with_nothing_else(tmp_path, mark, end):
    lines = {
        "a.tsv": ["text\tlabel", f"{NO_ENDS}\t1", "b\t0"],
        "a.jsonl": [
            json.dumps({"text": text, "label": str(n)}, ensure_ascii=False) for text, n in ((NO_ENDS, 1), ("b", 0))
        ],
        "a.conll": [f"{NO_ENDS} 1", "", "b 0"],
    }
    for name, content in lines.items():
        (tmp_path / name).write_bytes((mark + end.join(content)).encode())
        one = read_table(str(tmp_path / name)).columns
        (tmp_path / name).write_bytes((mark + end.join(content) + end).encode())
        assert read_table(str(tmp_path / name)).columns == one
        texts = [json.loads(words)[0] for words in one["tokens"]] if name == "a.conll" else one["text"]
        assert texts == [NO_ENDS, "b"], name


def test_empty_last_lines_of_tsv_are_no_rows(tmp_path):
    for end in ("\n", "\r\n"):
        (tmp_path / "a.tsv").write_bytes(end.join(["text\tlabel", "a\t1", "b\t0", "", ""]).encode())
        assert read_table(str(tmp_path / "a.tsv")).columns == {"text": ["a", "b"], "label": ["1", "0"]}
    (tmp_path / "a.tsv").write_text("text\tlabel\na\t1\n\nb\t0\n")
    with pytest.raises(InputError, match="line 3: 1 fields, but the header has 2"):
        read_table(str(tmp_path / "a.tsv"))


def test_parquet_of_any_type_is_what_its_values_say(tmp_path):
    """Values as pyarrow itself gives them: dictionaries (pandas' categories), decimals, long strings, integers of 64
    bits."""
    arrays = {
        "dictionary": pyarrow.array(["b", None, "a"]).dictionary_encode(),
        "decimal": pyarrow.array([Decimal("1.00"), None, Decimal("12.50")]),
        "large": pyarrow.array(["x", "y", None], pyarrow.large_string()),
        "integer": pyarrow.array([2**64 - 1, 2**64 - 2, None], pyarrow.uint64()),
        "boolean": pyarrow.array([True, False, None]),
        "lists": pyarrow.array([["a"], [], None], pyarrow.large_list(pyarrow.string())),
    }
    pyarrow.parquet.write_table(pyarrow.table(arrays), tmp_path / "a.parquet")
    assert read_table(str(tmp_path / "a.parquet")).columns == {
        "dictionary": ["b", "", "a"],
        "decimal": ["1.00", "", "12.50"],
        "large": ["x", "y", ""],
        "integer": [str(2**64 - 1), str(2**64 - 2), ""],
        "boolean": ["true", "false", ""],
        "lists": ['["a"]', "[]", ""],
    }


def test_quotes_in_tsv_are_characters(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"5 in. pipe\t1\n6" pipe\t0\n')
    assert read_table(str(tmp_path / "a.tsv")).columns["text"] == ['"5 in. pipe', '6" pipe']


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"", r"a\.tsv is empty \(0 bytes\)"),
        ("a.tsv", b"\xef\xbb\xbf", "no rows"),
        ("a.tsv", b"text\tlabel\n", "no rows of data"),
        ("a.csv", b"text,label\r\n", "no rows of data"),
        ("a.csv", b"\r\n\r\n", "only blank lines"),
        ("a.jsonl", b"\n", "no rows"),
        ("a.jsonl", b"{}\n", "no rows"),
        ("a.tsv", b"text\tlabel\na\t1\nb\xff\t0\n", r"not UTF-8: byte 0xff at offset 16 \(line 3\); save it as UTF-8"),
        ("a.tsv", "text\tlabel\na\t1\n".encode("utf-16"), r"not UTF-8: byte 0xff at offset 0 \(line 1\)"),
        ("a.tsv", b"text\tlabel\na\t1\nb\n", "line 3: 1 fields, but the header has 2"),
        ("a.csv", b'text,label\n"a\nb",1\nc,0,2\n', "line 4: 3 fields, but the header has 2"),
        ("a.csv", b'text,label\n"a,1\n', r"line 2: not CSV"),
        ("a.csv", b'text,label\n"a"b,1\n', r"line 2: not CSV"),
        ("a.jsonl", b'{"a": 1, "a": 2}\n', r"line 1: not JSON \('a' occurs twice"),
        ("a.tsv", b"text\tlabel\ttext\na\t1\tb\n", "column 'text' twice"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "line 2: not JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', r"line 2: '\[1\]' is not an object"),
        ("a.jsonl", b'{"a": "\\ud800"}\n', "line 1: .*surrogate"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "line 1: not JSON"),
        ("a.parquet", b"PAR1 nothing", "not a Parquet file"),
        ("a.tsv.gz", b"text\tlabel\na\t1\n", "cannot be read"),
        ("a.tsv.gz", gzip.compress(b"text\tlabel\na\t1\n" * 50, mtime=0)[:-9], "cannot be read"),
        ("a.xlsx", b"PK", r"a\.xlsx: cannot tell the format.*\.tsv, \.csv, \.jsonl"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table(str(tmp_path / name))


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.tsv: no such file"):
        read_table(str(tmp_path / "nowhere.tsv"))
    with pytest.raises(InputError, match="is a folder; give a file"):
        read_table(str(tmp_path))


def test_a_missing_column_names_those_there_are():
    table = parse_tsv(b"query\tlabel\na\t1\n", "t.tsv")
    with pytest.raises(InputError, match=r"t\.tsv has no column 'title'; it has query, label"):
        table.column("title")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("synthetic:other", "no such generated task; there are synthetic:ad-relevance, "),
        ("synthetic:ad-relevance?size=3", "unknown option 'size'; the options are rows and seed"),
        ("synthetic:ad-relevance?rows=many", "rows is 'many'"),
        ("synthetic:ad-relevance?rows=-1", "rows is '-1'"),
        ("synthetic:ad-relevance?rows=0", "at least 1"),
    ],
)
def test_bad_generated_sources(source, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read_table(source)


def test_generated_sources_take_rows_and_seed():
    assert len(read_table("synthetic:ad-relevance?rows=37")) == 37
    one, other = (read_table(f"synthetic:ad-relevance?rows=37&seed={seed}") for seed in (1, 2))
    assert one.columns != other.columns


def test_sources_need_neither_torch_nor_pyarrow_until_used(run_python):
    run_python(
        "import sys; import prunetime.tasks.sources, prunetime.tasks.metrics, prunetime.tasks.roles;"
        "assert not {'torch', 'pyarrow', 'huggingface_hub', 'transformers'} & set(sys.modules)"
    )


def test_a_missing_library_says_what_to_install(run_python, tmp_path):
    Path(tmp_path / "a.parquet").write_bytes(b"PAR1")
    for module, source in (("pyarrow", str(tmp_path / "a.parquet")), ("huggingface_hub", "owner/name")):
        run_python(
            f"""
import sys
from prunetime.errors import InputError
from prunetime.tasks.sources import read_table
sys.modules[{module!r}] = None  # what an uninstalled module looks like to import
try:
    read_table({source!r})
except InputError as error:
    assert "pip install 'prunetime[prune]'" in str(error), error
else:
    raise AssertionError("no error")
"""
        )
