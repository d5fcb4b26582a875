from pathlib import Path

import pytest
from tiny import bert_folder, write_tsv

from prunetime.tasks.synthetic import ad_relevance


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    bert_folder(folder / "bert")
    write_tsv(ad_relevance(800, 0), folder / "ads.tsv")
    return folder
