import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from hub import SHA, Hub, serving
from tiny import bert_folder

from prunetime.errors import InputError
from prunetime.tasks.hub import choose_files
from prunetime.tasks.sources import read_table


def parquet(**columns):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def pairs(*labels):
    """As GLUE has them, a pair for each label."""
    texts = [f"number {number} of {len(labels)}" for number in range(len(labels))]
    return parquet(sentence1=texts, sentence2=texts, label=list(labels), idx=list(range(len(labels))))


def glue(config, **splits):
    """The entry of the card, and the files."""
    card = {"config_name": config, "data_files": [{"split": s, "path": f"{config}/{s}-*"} for s in splits]}
    return card, {f"{config}/{split}-00000-of-00001.parquet": content for split, content in splits.items()}


MRPC = glue("mrpc", train=pairs(*[0, 1] * 60), validation=pairs(*[1, 0] * 15), test=pairs(*[-1] * 20))
MNLI = glue("mnli", train=pairs(0, 1, 2), validation_matched=pairs(0, 1), validation_mismatched=pairs(2, 1, 0))
ANSWERS = [{"text": ["oak"], "answer_start": [7]}, {"text": ["red"], "answer_start": [0]}]

DATASETS = {
    "nyu-mll/glue": {"configs": [MRPC[0], MNLI[0]], "files": MRPC[1] | MNLI[1]},
    "rajpurkar/squad": {
        "files": {
            f"plain_text/{split}-00000-of-00001.parquet": parquet(
                id=["a", "b"],
                title=["t", "t"],
                context=["it is, oak", "red it is"],
                question=["of what?", "what colour?"],
                answers=ANSWERS,
            )
            for split in ("train", "validation")
        }
    },
    "shop/plain": {
        "files": {
            "README.md": b"# ads\n",
            "data/train-00000-of-00002.csv": b"text,label\r\na chair,1\r\n",
            "data/train-00001-of-00002.csv": b"text,label\r\na lamp,0\r\n",
            "data/validation.jsonl": b'{"text": "a sofa", "label": 1}\n',
            "data/test.tsv": b"text\tlabel\na rug\t0\n",
        }
    },
    "shop/configs": {
        "configs": [
            {"config_name": "small", "data_files": [{"split": "train", "path": "a.tsv"}]},
            {"config_name": "large", "data_files": [{"split": "dev", "path": ["b*.tsv"]}]},
        ],
        "files": {"a.tsv": b"text\tlabel\nsmall one\t1\n", "b1.tsv": b"text\tlabel\nlarge one\t1\n"},
    },
    "shop/classes": {
        "dataset_info": {
            "features": [{"name": "label", "dtype": {"class_label": {"names": {"0": "bad", "1": "good"}}}}],
        },
        "files": {"train.csv": b"text,label\r\na chair,1\r\na lamp,0\r\n"},
    },
    "shop/older": {
        "files": {
            "train.csv": b"text,label\r\na chair,1\r\na lamp,0\r\n",
            "dataset_infos.json": json.dumps(
                {"default": {"features": {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}}}
            ).encode(),
        },
    },
    "shop/uneven": {"files": {"train1.csv": b"a,b\r\n1,2\r\n", "train2.csv": b"a,c\r\n1,2\r\n"}},
}


class Datasets(Hub):
    """As much of the hub's API as reading a dataset takes."""

    def respond(self, path):
        for name, dataset in DATASETS.items():
            if path == f"/api/datasets/{name}":
                files = [{"rfilename": file} for file in dataset["files"]]
                card = {key: dataset[key] for key in ("configs", "dataset_info") if key in dataset}
                body = {"id": name, "sha": SHA, "siblings": files, "cardData": card, "tags": [], "private": False}
                return self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
            for file, content in dataset["files"].items():
                if path == f"/datasets/{name}/resolve/{SHA}/{file}":
                    return self.send_file(content)
        return False


@pytest.fixture
def hub(tmp_path):
    with serving(Datasets, tmp_path) as environment:
        yield environment


READ = """
import json, sys
from prunetime.errors import InputError
from prunetime.tasks.sources import read_table
answers = []
for source, split in json.loads({requests!r}):
    try:
        answers.append(read_table(source, split).columns)
    except InputError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def read(run_python, environment, *requests):
    return json.loads(run_python(READ.format(requests=json.dumps(requests)), **environment))


def test_datasets_are_read_with_the_real_client(run_python, hub):
    train, valid, test, small, large = read(
        run_python,
        hub,
        *(("shop/plain", split) for split in ("train", "validation", "test")),
        *(("shop/configs:small", "train"), ("shop/configs:large", "validation")),
    )
    assert train == {"text": ["a chair", "a lamp"], "label": ["1", "0"]}
    assert valid == {"text": ["a sofa"], "label": ["1"]}
    assert test == {"text": ["a rug"], "label": ["0"]}
    assert small["text"] == ["small one"]
    assert large["text"] == ["large one"]


NAMES = """
from prunetime.tasks.sources import read_table
for source in ("shop/classes", "shop/older", "shop/plain"):
    print(dict(read_table(source).class_names))
"""


def test_cards_say_the_names_of_classes(run_python, hub):
    classes, older, plain = run_python(NAMES, **hub).splitlines()
    assert classes == older == "{'label': ('bad', 'good')}"
    assert plain == "{}"


def test_benchmarks_are_judged_by_what_has_public_labels(run_python, hub):
    train, dev, matched, mismatched, squad = read(
        run_python,
        hub,
        *(("glue:mrpc", "train"), ("glue:mrpc", "test"), ("glue:mnli", "test"), ("glue:mnli-mm", "test")),
        ("squad:v1", "test"),
    )
    assert (len(train["label"]), dev["label"][:3]) == (120, ["1", "0", "1"])
    assert (matched["label"], mismatched["label"]) == (["0", "1"], ["2", "1", "0"])
    assert json.loads(squad["answers"][0]) == ANSWERS[0]


SOURCE = """
import json, sys
from prunetime.core.budget import Budget
from prunetime.settings import Settings
from prunetime.pipeline.source import load_source
source = load_source(Settings({model!r}, "glue:mrpc", Budget(share=0.5, seq_len=16)), lambda _: None)
roles = source.roles
print(json.dumps([source.metric.name, source.task.text, [len(r) for r in (roles.train, roles.valid, roles.test)]]))
"""


def test_a_benchmark_by_one_flag(run_python, hub, tmp_path):
    model = bert_folder(tmp_path / "model")
    name, text, (train, valid, test) = json.loads(run_python(SOURCE.format(model=str(model)), **hub))
    assert (name, text, test) == ("f1", ["sentence1", "sentence2"], 30)
    assert train + valid == 120
    assert valid >= 8


def test_no_such_benchmark():
    with pytest.raises(InputError, match=r"glue:ax: no such benchmark; there are glue:cola, .*, squad:v2"):
        read_table("glue:ax")


def test_what_the_hub_does_not_have(run_python, hub):
    missing, config, split, uneven = read(
        run_python,
        hub,
        *(("shop/none", "train"), ("shop/configs", "train"), ("shop/configs:small", "test"), ("shop/uneven", "train")),
    )
    assert "shop/none: neither a file nor a dataset" in missing
    assert "choose a config, as in shop/configs:NAME; small, large" in config
    assert "no split 'test'; it has train" in split
    assert (
        "shop/uneven/train2.csv has the columns a, c, but shop/uneven/train1.csv of the same split has a, b" in uneven
    )


def test_a_hub_that_does_not_answer(run_python, hub):
    (error,) = read(run_python, hub | {"HF_ENDPOINT": "http://127.0.0.1:1"}, ("shop/plain", "train"))
    assert "shop/plain: no such file, and the hub could not be asked" in error


@pytest.mark.parametrize(
    ("files", "split", "chosen"),
    [
        (["all.csv"], "train", ["all.csv"]),
        (["train.csv", "dev.csv"], "validation", ["dev.csv"]),
        (["training/part-1.tsv", "validation/part-1.tsv"], "train", ["training/part-1.tsv"]),
        (["training_runs/eval.tsv"], "test", ["training_runs/eval.tsv"]),
        (["contest.csv", "test_set.csv"], "test", ["test_set.csv"]),
        (["train.csv", "notes.txt"], "train", ["train.csv"]),
    ],
)
def test_splits_are_told_by_words_in_the_path(files, split, chosen):
    assert choose_files("o/n", files, (), "", split) == chosen


def test_without_a_card_a_config_is_a_folder():
    files = ["en/train.parquet", "de/train.parquet"]
    assert choose_files("o/n:de", files, (), "de", "train") == ["de/train.parquet"]
    with pytest.raises(InputError, match="no config 'fr'; its folders are de, en"):
        choose_files("o/n:fr", files, (), "fr", "train")


def test_a_dataset_without_readable_files():
    with pytest.raises(InputError, match=r"no data file that can be read \(\.tsv"):
        choose_files("o/n", ["script.py", "image.png"], (), "", "train")
