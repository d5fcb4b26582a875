"""Models taken elsewhere: transformers without prunetime, OpenVINO, and the hub (a stand-in)."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from cases import family_fields, random_config, random_weights
from click.testing import CliRunner
from hub import SHA, Hub, serving
from served import TASKS, made_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from prunetime import load
from prunetime.cli import main
from prunetime.core import artifact
from prunetime.core.arch import ArchSpec, KeptBlocks, LayerSpec
from prunetime.core.embedding import EmbeddingSettings
from prunetime.core.precision import PrecisionPlan
from prunetime.core.prompts import Prompts
from prunetime.core.task_kind import TASK_KINDS
from prunetime.errors import InputError
from prunetime.export.card import artifact_card, examples_of, transformers_card
from prunetime.export.openvino import export_openvino
from prunetime.export.transformers import AUTO, export_transformers
from prunetime.models.hf import config_json
from prunetime.models.modeling import PrunetimeForSequenceClassification
from prunetime.models.sentence_files import sentence_files
from prunetime.models.tokenization import PretrainedTokenizer
from prunetime.pipeline.pretrained import hub_id

TEXT, PAIR = "red sofa with steel legs", "a velvet couch in red"


def uneven(folder: Path, name: str, family: str = "bert") -> Path:
    """An artifact whose layers have lost heads, FFN, both, or blocks."""
    task, tokenizer = TASKS[name], made_tokenizer()
    rng = np.random.default_rng(0)
    sizes = {"layers": 5, "heads": 3, "head_dim": 32, "ffn": 160, "positions": 40, "outputs": task.outputs}
    config = random_config(rng, **family_fields(family), **sizes, rows=task.rows)
    config = replace(config, dims=replace(config.dims, vocabulary=tokenizer.get_vocab_size()))
    dims = config.dims
    spec = ArchSpec(
        (
            LayerSpec.full(dims),
            LayerSpec(0, dims.hidden, dims.ffn, dims.hidden),
            LayerSpec(dims.heads, dims.hidden, 0, dims.hidden),
            LayerSpec(0, dims.hidden, 0, dims.hidden),
            LayerSpec(2, 64, 128, 32, (KeptBlocks("ffn_input", 32, 32, 5),)),
        )
    )
    weights = random_weights(config, spec, rng)
    pretrained = PretrainedTokenizer(task.max_length, tokenizer.to_str().encode(), {"pad_token": "[PAD]"})
    files = {
        **pretrained.files(config),
        "config.json": config_json(config, spec, task),
        "model_card.md": b"# A model\n",
        **sentence_files(config, task, weights),
    }
    return artifact.write(folder, artifact.Manifest(config, spec, PrecisionPlan(), task, {}), weights, files)


REMOTE = """
import json, sys
sys.modules["prunetime"] = None  # as where it is not installed
import torch, transformers
from transformers import AutoTokenizer
folder, auto, *texts = sys.argv[1:]
model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()
inputs = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)(*texts, return_tensors="pt")
with torch.no_grad():
    found = model(**inputs)
logits = found.pooler_output if auto == "AutoModel" else found.logits if "logits" in found else torch.stack(
    (found.start_logits, found.end_logits), dim=-1)
print(json.dumps(logits[0].tolist()))
"""


@pytest.mark.parametrize(("name", "family"), [("pairs", "bert"), ("words", "modernbert"), ("twins", "mpnet")])
def test_transformers_loads_it_where_prunetime_is_not(name: str, family: str, tmp_path: Path) -> None:
    source = uneven(tmp_path / "artifact", name, family)
    folder = export_transformers(source, tmp_path / "remote")
    assert not (folder / "model_card.md").exists()
    texts = [TEXT] if name in ("words", "twins") else [TEXT, PAIR]
    command = [sys.executable, "-c", REMOTE, folder, AUTO[TASK_KINDS[TASKS[name].kind].head], *texts]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    model = load(source)
    tokens = model.tokenizer.encode([tuple(texts)])
    expected = model.engine.logits(tokens)
    found = np.array(json.loads(ran.stdout.splitlines()[-1])).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_folder_saved_again_where_prunetime_is_installed_loads_where_it_is_not(tmp_path: Path) -> None:
    first, again = export_transformers(uneven(tmp_path / "artifact", "pairs"), tmp_path / "first"), tmp_path / "again"
    model = AutoModelForSequenceClassification.from_pretrained(first)
    assert isinstance(model, PrunetimeForSequenceClassification)
    model.save_pretrained(again)
    AutoTokenizer.from_pretrained(first).save_pretrained(again)
    command = [sys.executable, "-c", REMOTE, str(again), "AutoModelForSequenceClassification", TEXT, PAIR]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    inputs = AutoTokenizer.from_pretrained(first)(TEXT, PAIR, return_tensors="pt")
    expected = model.eval()(**inputs).logits[0].tolist()
    assert json.loads(ran.stdout.splitlines()[-1]) == pytest.approx(expected, abs=1e-5)


PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def code_of(card: str) -> str:
    (code,) = PYTHON.findall(card)
    return str(code)


def numbers(printed: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(printed)]


RUN_EACH = """
import json, os, sys
sys.modules["prunetime"] = None  # as where it is not installed
import contextlib, io
printed = {}
for name, (folder, code) in json.loads(sys.stdin.read()).items():
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, {})
    printed[name] = said.getvalue()
print(json.dumps(printed))
"""


@pytest.fixture(scope="module")
def printed_by_transformers(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], dict[str, str]]:
    """The artifacts of all kinds of tasks, and what the code in the README.md of each one's export prints."""
    work = tmp_path_factory.mktemp("cards")
    sources = {name: uneven(work / name, name) for name in TASKS}
    folders = {name: export_transformers(source, work / f"{name}-remote") for name, source in sources.items()}
    codes = {name: (str(folder), code_of((folder / "README.md").read_text())) for name, folder in folders.items()}
    environment = {**os.environ, "HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", RUN_EACH]
    ran = subprocess.run(command, input=json.dumps(codes), capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    return sources, json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", TASKS)
def test_the_code_of_cards_runs_for_every_kind_of_task(
    name: str,
    printed_by_transformers: tuple[dict[str, Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, theirs = printed_by_transformers[0][name], printed_by_transformers[1][name]
    model, task = load(source), TASKS[name]
    monkeypatch.chdir(source)
    exec(code_of(artifact_card(model.manifest, MEASURED)), {})
    ours, texts = capsys.readouterr().out, examples_of(task)
    if task.kind == "similarity":
        expected = model.embed(list(texts)).ravel()
        for printed in (ours, theirs):  # the first numbers of a row, and the last
            np.testing.assert_allclose(numbers(printed)[:3], expected[:3], atol=1e-3)
        return
    assert ours == f"{model.score([texts])}\n"
    logits = model.engine.logits(model.tokenize([texts]))
    if task.rows == "pooled":
        np.testing.assert_allclose(numbers(theirs), logits[0], atol=1e-3)
    elif task.kind == "question-answering":
        assert len(theirs.splitlines()) == 1
    else:
        assert ast.literal_eval(theirs) == [task.labels[best] for best in logits.argmax(axis=1)]


MEASURED: dict[str, Any] = {
    "budget": {"us": 100.0, "seq_len": 24},
    "machine": {"cpu": "a CPU"},
    **{
        name: {"p50_us": 90.0, "p99_us": 99.0, "metric": "auc", "value": 0.9, "ci95": [0.88, 0.92], "params": 1_000}
        for name in ("dense", "pruned")
    },
}


@pytest.mark.parametrize(
    ("provenance", "title"),
    [
        ({"model": "/home/me/secret/bert"}, "# bert, pruned by prunetime"),
        ({"model": "me/bert", "base_model": "me/bert"}, "# me/bert, pruned by prunetime"),
    ],
)
def test_cards_name_the_hub_id_of_the_base_model_or_nothing(
    provenance: dict[str, str], title: str, tmp_path: Path
) -> None:
    source = uneven(tmp_path / "artifact", "pairs")
    manifest = replace(artifact.read(source).manifest, provenance=provenance | {"measured": MEASURED})
    for card in (artifact_card(manifest, MEASURED), transformers_card(manifest, "me/pruned")):
        assert title in card.splitlines()
        assert ("base_model: me/bert" in card.splitlines()) == ("base_model" in provenance)
        assert "/home" not in card
        assert "| pruned | 90 | 99 | 0.9000 | 0.8800 to 0.9200 | 1,000 |" in card


def test_only_hub_ids_are_base_models(tmp_path: Path) -> None:
    assert hub_id("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    assert hub_id(str(tmp_path)) is None


def test_a_hub_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    source = uneven(tmp_path / "artifact", "pairs")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    ran = push({"HF_TOKEN": "hf_x", "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}, source, "me/pruned")
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"error: me/pruned: the hub at {endpoint} does not answer: ")
    assert line.endswith("and run the same command again")


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    source = uneven(tmp_path / "artifact", "pairs")
    with pytest.raises(InputError, match="exists: choose another folder"):
        export_transformers(source, tmp_path / "artifact")


def test_openvino_takes_bf16_where_the_cpu_has_it_and_the_note_says_how_to_hold_float32(tmp_path: Path) -> None:
    import openvino

    source = uneven(tmp_path / "artifact", "pairs")
    ran = CliRunner().invoke(
        main, ["export", str(source), "--to", "openvino", "--out", str(tmp_path / "model.xml"), "--json"]
    )
    assert ran.exit_code == 0, ran.stderr
    note = json.loads(ran.stdout)["note"]
    assert note in ran.stderr
    core, model = openvino.Core(), load(source)
    read = core.read_model(tmp_path / "model.xml")
    said = re.search(r"compile_model\((.*)\) holds float32", note)
    assert said
    held = eval(f"core.compile_model({said[1]})", {"core": core, "model": read})
    tokens = model.tokenizer.encode([(TEXT, PAIR)])
    names = ("input_ids", "attention_mask", "token_type_ids")
    feed = {name: array.astype(np.int64) for name, array in zip(names, tokens.padded(0), strict=True)}
    np.testing.assert_allclose(held(feed)[0], model.engine.logits(tokens), atol=1e-4)
    by_default = core.compile_model(read, "CPU").get_property("INFERENCE_PRECISION_HINT")
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert by_default == (openvino.Type.bf16 if has_bf16 else openvino.Type.f32)


def test_openvino_wants_its_ending(tmp_path: Path) -> None:
    found = artifact.read(uneven(tmp_path / "artifact", "pairs"))
    with pytest.raises(InputError, match=r"OpenVINO's files are called \.xml"):
        export_openvino(found.manifest.config, found.weights, tmp_path / "model.onnx")


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_a_graph_of_a_model_that_leaves_prompts_out_of_pooling_is_refused(form: str, tmp_path: Path) -> None:
    found = artifact.read(uneven(tmp_path / "whole", "twins"))
    prompts, embedding = Prompts({"query": "query: ", "plain": ""}), EmbeddingSettings(include_prompt=False)
    manifest = replace(found.manifest, task=replace(found.manifest.task, prompts=prompts, embedding=embedding))
    source = artifact.write(tmp_path / "model", manifest, found.weights, {artifact.TOKENIZER: found.tokenizer})
    ran = CliRunner().invoke(main, ["export", str(source), "--to", form, "--out", str(tmp_path / "model.xml")])
    assert ran.exit_code == 2
    assert re.search(
        rf"prompts \(query\) out of pooling \(include_prompt false\), which a file of {form} cannot", ran.output
    )


class Uploads(Hub):
    """A hub that keeps what is committed."""

    kept: ClassVar[dict[str, bytes]] = {}
    made: ClassVar[list[dict[str, Any]]] = []

    @property
    def address(self) -> str:
        return f"http://{self.headers['Host']}"

    def respond(self, path: str) -> bool:
        if path == "/api/models/me/pruned/revision/main" or path == "/api/models/me/pruned":
            return self.reply({"id": "me/pruned", "sha": SHA, "siblings": []})
        return False

    def do_POST(self) -> None:  # noqa: N802 (http.server's name)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            self.made.append(json.loads(body))
            self.reply({"url": f"{self.address}/me/pruned", "name": "me/pruned"})
        elif path.endswith("/preupload/main"):
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            self.reply({"files": files})
        elif path.endswith("/commit/main"):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.kept[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.reply({"commitUrl": f"{self.address}/me/pruned/commit/{SHA}", "commitOid": SHA, "hookOutput": ""})
        elif path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        else:
            self.send(404, b"{}", {})

    def reply(self, content: Any) -> bool:
        body = json.dumps(content).encode()
        return self.send(200, body, {"Content-Type": "application/json"})


def push(environment: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prunetime", "push", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_the_hub_gets_what_transformers_loads(tmp_path: Path) -> None:
    source = uneven(tmp_path / "artifact", "pairs")
    with serving(Uploads, tmp_path / "home") as environment:
        ran = push({**environment, "HF_TOKEN": "hf_secret"}, source, "me/pruned", "--private", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])["repository"].endswith("me/pruned")
    assert Uploads.made[0]["name"] == "pruned"
    assert "private" in json.dumps(Uploads.made[0])
    assert {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "modeling.py",
        "encoder.py",
    } <= Uploads.kept.keys()
    assert 'name = "me/pruned"' in Uploads.kept["README.md"].decode()
    assert Uploads.kept["model.safetensors"] == (source / "model.safetensors").read_bytes()
    assert json.loads(Uploads.kept["config.json"])["auto_map"]["AutoConfig"] == "modeling.PrunetimeConfig"


def test_a_hub_that_refuses_is_named(tmp_path: Path) -> None:
    class Refuses(Hub):
        def respond(self, _: str) -> bool:
            return False

        def do_POST(self) -> None:  # noqa: N802 (http.server's name)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send(401, b"", {"X-Error-Message": "Invalid username or password."})

    source = uneven(tmp_path / "artifact", "pairs")
    with serving(Refuses, tmp_path / "home") as environment:
        ran = push({**environment, "HF_TOKEN": "hf_wrong"}, source, "me/pruned")
        assert ran.returncode == 2
        assert f"me/pruned: the hub at {environment['HF_ENDPOINT']} refuses it" in ran.stderr
        ran = push({**environment, "HF_TOKEN": "hf_wrong"}, source, "not a name")
    assert ran.returncode == 2
    assert "not a name" in ran.stderr
