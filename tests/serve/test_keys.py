import logging
from pathlib import Path

import pytest

from prunetime.errors import InputError
from prunetime.serve.errors import RefusedError
from prunetime.serve.keys import Keys


def test_only_keys_of_the_file_are_let_in(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# for the ads team\nsesame\n\n  other key \n")
    keys = Keys(file)
    keys.check("Bearer sesame")
    keys.check("bearer other key")
    for wrong in (None, "", "sesame", "Basic sesame", "Bearer", "Bearer ", "Bearer sesam", "Bearer # for the ads team"):
        with pytest.raises(RefusedError, match="Authorization"):
            keys.check(wrong)


def test_a_reloaded_file_counts_and_a_broken_one_does_not(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("old\n")
    keys = Keys(file)
    file.write_text("new\n")
    keys.reload()
    keys.check("Bearer new")
    with pytest.raises(RefusedError):
        keys.check("Bearer old")
    file.write_text("# none\n")
    with pytest.raises(InputError, match="has no key"):
        keys.reload()
    keys.check("Bearer new")
    with pytest.raises(InputError, match="cannot read the keys"):
        Keys(tmp_path / "missing")


def test_without_a_file_everybody_is_let_in() -> None:
    Keys(None).check(None)


def lets_in(keys: Keys, key: str) -> bool:
    try:
        keys.check(f"Bearer {key}")
    except RefusedError:
        return False
    return True


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_files_of_other_editors(tmp_path: Path, end: str, mark: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(mark + end.join(["one", "\ttwo ", "# thr\u2028ee", ""]).encode())
    keys = Keys(file)
    assert [key for key in ("one", "two", "ee", "# thr", "\ufeffone") if lets_in(keys, key)] == ["one", "two"]


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\r", "\0", "\u00e9"])
def test_a_line_that_no_header_carries_is_refused_by_its_number(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "keys"
    file.write_text("good\n", newline="")
    keys = Keys(file)
    file.write_text(f"new\nsesame{separator}open\n", newline="")
    with pytest.raises(InputError, match=r"line 2 of .*keys is no key"):
        keys.reload()
    assert lets_in(keys, "good")
    assert not lets_in(keys, "sesame")


def test_a_file_that_everybody_can_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text("sesame\n")
    file.chmod(0o640)
    with caplog.at_level(logging.WARNING):
        keys = Keys(file)
        assert not caplog.messages
        file.chmod(0o644)
        keys.reload()
    assert caplog.messages == [f"every user of this machine can read the keys in {file}: chmod 600 {file}"]
