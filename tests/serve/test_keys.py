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
