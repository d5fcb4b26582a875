"""Reading labelled data: TSV, CSV, JSONL and Parquet files, datasets of the Hugging Face hub, and generated tasks."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from prunetime.errors import InputError
from prunetime.tasks.answers import parse_squad
from prunetime.tasks.benchmarks import BENCHMARKS
from prunetime.tasks.class_names import class_names_beside, class_names_of_schema
from prunetime.tasks.conll import parse_conll
from prunetime.tasks.synthetic import GENERATORS
from prunetime.tasks.table import Table, parse_json

SYNTHETIC_ROWS = 24_000
"""Enough for a test part (a tenth) of 2,000 rows."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?")


def read_table(source: str, split: str = "train") -> Table:
    """The table that `source` names.

    - a file: `.tsv` (UTF-8, header, tab-separated, no quoting), `.csv` (RFC 4180), `.jsonl`, `.json` (SQuAD v1.1),
      `.conll`, each also with `.gz`, or `.parquet`
    - `synthetic:ad-relevance`, `synthetic:question-answering`, `synthetic:product-entities` or `synthetic:intents`,
      with options as in `synthetic:ad-relevance?rows=24000&seed=3`
    - `owner/name` or `owner/name:config`: a dataset of the hub (HF_ENDPOINT is honoured), of which the files of
      `split` (train, validation or test) are read
    - `glue:mrpc`, `squad:v1` and others of `BENCHMARKS`: a dataset of the hub, where test is what has public labels

    Raises InputError where there is nothing to read or it is not what its name says.
    """
    if source.startswith("synthetic:"):
        return _synthetic(source)
    path = Path(source)
    if path.is_dir():
        raise InputError(f"{source} is a folder; give a file ({', '.join(_PARSERS)})")
    if path.exists():
        names, said_by = class_names_beside(path)
        return read_file(path, source).with_class_names(names, str(said_by))
    if benchmark := BENCHMARKS.get(source):
        return _of_hub(benchmark.dataset, benchmark.split(split))
    if source.partition(":")[0] in {name.partition(":")[0] for name in BENCHMARKS}:
        raise InputError(f"{source}: no such benchmark; there are {', '.join(BENCHMARKS)}")
    if parser_of(source) is None and _HUB_ID.fullmatch(source):
        return _of_hub(source, split)
    raise InputError(f"{source}: no such file")


def read_file(path: Path, name: str) -> Table:
    """The table in the file at `path`; messages call it `name`."""
    parse = parser_of(name)
    if parse is None:
        raise InputError(f"{name}: cannot tell the format from the name; rename it to end in {', '.join(_PARSERS)}")
    try:
        data = path.read_bytes()
        if name.lower().endswith(".gz"):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name} cannot be read: {error}") from error
    if not data:
        raise InputError(f"{name} is empty (0 bytes); give a file with a header and rows")
    return parse(data, name)


def parser_of(name: str) -> Callable[[bytes, str], Table] | None:
    """The reader of a file called `name`; None for a suffix that is not known."""
    lower = name.lower()
    return next((parse for suffix, parse in _PARSERS.items() if lower.endswith(suffix)), None)


def lines_of(text: str) -> list[str]:
    """The lines of a text, which end with `\\n` or `\\r\\n` and with nothing else; the last may lack its end."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def parse_tsv(data: bytes, name: str) -> Table:
    lines = lines_of(_text(data, name))
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    header, *rows = (line.split("\t") for line in lines)
    for number, row in enumerate(rows, start=2):
        _check_width(row, header, name, number)
    return Table.of_rows(name, header, rows)


def parse_csv(data: bytes, name: str) -> Table:
    text = _text(data, name)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    with _csv_limit_lock:  # the module has one limit for all readers
        limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
        try:
            for row in reader:
                if row:
                    rows.append(row)
                    _check_width(row, rows[0], name, reader.line_num)
        except csv.Error as error:
            raise InputError(
                f"{name}, line {reader.line_num}: not CSV ({error}); RFC 4180 quoting is expected"
            ) from error
        finally:
            csv.field_size_limit(limit)
    if not rows:
        raise InputError(f"{name} holds only blank lines; give a header and rows")
    return Table.of_rows(name, rows[0], rows[1:])


_csv_limit_lock = threading.Lock()


def parse_jsonl(data: bytes, name: str) -> Table:
    records = []
    for number, line in enumerate(lines_of(_text(data, name)), start=1):
        if not line.strip(" \t\r"):
            continue
        at = f"{name}, line {number}"
        record = parse_json(line, at, "one object a line is expected", object_pairs_hook=_without_duplicates)
        if not isinstance(record, dict):
            raise InputError(f"{at}: {line.strip()[:40]!r} is not an object of column: value")
        records.append(record)
    header = list(dict.fromkeys(column for record in records for column in record))
    return Table.of_rows(name, header, [[_as_text(record.get(column)) for column in header] for record in records])


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice in an object")
    return found


def parse_parquet(data: bytes, name: str) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{name}: Parquet needs pyarrow; pip install 'prunetime[prune]'") from error
    try:
        # In this thread alone: a reading thread that lets go of `data` as the interpreter ends aborts it (Arrow issue
        # 34314).
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data), pre_buffer=False)
        table = file.read(use_threads=False)
        columns = [[_as_text(value) for value in column.to_pylist()] for column in table.columns]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{name} is not a Parquet file that can be read: {error}") from error
    found = Table.of_rows(name, table.column_names, list(zip(*columns, strict=True)))
    return found.with_class_names(class_names_of_schema(table.schema.metadata), f"the metadata of {name}")


_TEXT_PARSERS: dict[str, Callable[[bytes, str], Table]] = {
    ".tsv": parse_tsv,
    ".csv": parse_csv,
    ".jsonl": parse_jsonl,
    ".json": lambda data, name: parse_squad(_text(data, name), name),
    ".conll": lambda data, name: parse_conll(lines_of(_text(data, name)), name),
}

_ZIPPED_PARSERS = {f"{suffix}.gz": parse for suffix, parse in _TEXT_PARSERS.items()}
_PARSERS = _TEXT_PARSERS | _ZIPPED_PARSERS | {".parquet": parse_parquet}


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start} (line {line}); "
            "save it as UTF-8"
        ) from error


def _check_width(row: list[str], header: list[str], name: str, line: int) -> None:
    if len(row) != len(header):
        raise InputError(f"{name}, line {line}: {len(row)} fields, but the header has {len(header)}")


def _as_text(value: Any) -> str:
    """A value of JSON or Parquet as the text that TSV would hold."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, (bool, dict, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _of_hub(dataset: str, split: str) -> Table:
    from prunetime.tasks.hub import dataset_files

    files, names = dataset_files(dataset, split)
    table = _joined(f"{dataset} ({split})", [read_file(path, name) for name, path in files])
    return table.with_class_names(names, f"the card of {dataset}")


def _joined(name: str, tables: list[Table]) -> Table:
    first = tables[0]
    for table in tables[1:]:
        if set(table.columns) != set(first.columns):
            raise InputError(
                f"{table.name} has the columns {', '.join(table.columns)}, but {first.name} of the same split has "
                f"{', '.join(first.columns)}"
            )
        if table.class_names != first.class_names:
            raise InputError(f"{table.name} has other names of classes than {first.name} of the same split")
    columns = {column: [v for table in tables for v in table.columns[column]] for column in first.columns}
    return Table(name, columns, first.class_names, first.names_from)


def _synthetic(source: str) -> Table:
    name, _, query = source.removeprefix("synthetic:").partition("?")
    if name not in GENERATORS:
        there_are = ", ".join(f"synthetic:{known}" for known in GENERATORS)
        raise InputError(f"{source}: no such generated task; there are {there_are}")
    options = {"rows": SYNTHETIC_ROWS, "seed": 0}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in options:
            raise InputError(f"{source}: unknown option {key!r}; the options are rows and seed")
        if not re.fullmatch(r"[0-9]{1,12}", value):
            raise InputError(f"{source}: {key} is {value!r}; it must be a whole number of at least 0")
        options[key] = int(value)
    return GENERATORS[name](options["rows"], options["seed"])
