"""The whole road for words with labels and for texts that are embedded: to artifacts that others load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import run
from sentence_transformers import CrossEncoder, SentenceTransformer
from tiny import QUICK_PRUNETIME, bert_folder, last_object, write_tsv
from transformers import AutoModelForTokenClassification, AutoTokenizer

import prunetime
import prunetime.models.hf  # noqa: F401 (registers the classes of artifacts)
from prunetime.core.budget import Budget
from prunetime.core.task import Tagged
from prunetime.errors import InputError
from prunetime.pipeline.source import load_source
from prunetime.settings import Settings
from prunetime.tasks.synthetic import ad_relevance, product_entities


def prune(model: Path, data: str, out: Path, *more: str) -> dict[str, Any]:
    command = [
        *QUICK_PRUNETIME, "prune", "--model", str(model), "--data", data, "--latency", "75%", "--seq-len", "24",
        "--effort", "quick", "--precision", "fp32", "--out", str(out), "--json", *more,
    ]  # fmt: skip
    ran = run(command)
    assert ran.returncode == 0, ran.stderr
    return last_object(ran.stdout)


def prunetime_of(*arguments: str) -> str:
    ran = subprocess.run([sys.executable, "-m", "prunetime", *arguments], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_words_are_labelled(tmp_path: Path) -> None:
    titles = [" ".join(json.loads(words)) for words in product_entities(400, 0).columns["tokens"]]
    model = bert_folder(tmp_path / "bert", texts=titles)
    found = prune(model, "synthetic:product-entities?rows=1500", tmp_path / "run")
    assert found["dense"]["metric"] == "f1"
    text = "Oakridge red velvet love seat"
    ours = prunetime.load(found["artifact"])
    (tagged,) = ours.score([text])
    assert isinstance(tagged, Tagged)
    assert [text[start:stop] for start, stop in tagged.words] == text.split()
    tokenizer = AutoTokenizer.from_pretrained(found["artifact"])
    theirs = AutoModelForTokenClassification.from_pretrained(found["artifact"]).eval()
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = theirs(**inputs).logits[0].numpy()
    np.testing.assert_allclose(ours.engine.logits(ours.tokenize([text])), logits, rtol=1e-4, atol=1e-4)
    first = [inputs.word_ids().index(word) for word in range(5)]
    assert [theirs.config.id2label[int(logits[at].argmax())] for at in first] == list(tagged.labels)
    (spans,) = json.loads(prunetime_of("score", found["artifact"], "--text", text, "--json"))["scores"]
    assert spans == [span._asdict() for span in tagged.spans]
    judged = json.loads(
        prunetime_of("eval", found["artifact"], "--data", "synthetic:product-entities?rows=200&seed=9", "--json")
    )
    assert judged["metric"] == "f1"


def test_texts_are_embedded(tmp_path: Path) -> None:
    data = write_tsv(ad_relevance(900, 0), tmp_path / "ads.tsv")
    columns = ("--text", "query,title", "--label", "label", "--group", "query")
    prompts = {"prompts": {"query": "red "}, "default_prompt_name": "query"}
    bert = SentenceTransformer(modules=_modules(bert_folder(tmp_path / "bert")), **prompts)
    bert.save(str(tmp_path / "sentence"))
    found = prune(tmp_path / "sentence", str(data), tmp_path / "run", *columns, "--task", "similarity")
    assert found["dense"]["metric"] == "spearman"
    ours, theirs = prunetime.load(found["artifact"]), SentenceTransformer(found["artifact"])
    texts = ["red sofa", "velvet couch in red, 3 seats", "garden hose 20m with a nozzle and a reel for the whole yard"]
    embeddings = ours.embed(texts)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(embeddings, theirs.encode(texts), rtol=0, atol=1e-5)
    scores = ours.score([(texts[0], text) for text in texts])
    np.testing.assert_allclose(scores, embeddings @ embeddings[0], rtol=1e-5, atol=1e-5)
    assert ours.rank(texts[0], texts)[0]["corpus_id"] == 0
    with pytest.raises(InputError, match="text 1 is empty"):
        ours.embed(["a", " "])
    prunetime_of("export", found["artifact"], "--to", "onnx", "--out", str(tmp_path / "model.onnx"))


def _modules(folder: Path) -> list[Any]:
    from sentence_transformers.sentence_transformer import modules as models

    transformer = models.Transformer(str(folder), max_seq_length=24)
    return [transformer, models.Pooling(64, "mean"), models.Dense(64, 48), models.Normalize()]


def test_a_cross_encoder_of_one_output_is_a_teacher_of_relevance(tmp_path: Path) -> None:
    theirs = CrossEncoder(str(bert_folder(tmp_path / "bert")), num_labels=1)
    theirs.save_pretrained(str(tmp_path / "cross"))
    data = write_tsv(ad_relevance(900, 0), tmp_path / "ads.tsv")
    settings = Settings(str(tmp_path / "cross"), str(data), Budget(share=0.5, seq_len=24), teacher_ready=True)
    with pytest.raises(InputError, match=r"of 2 outputs, .*; it has one: --task relevance"):
        load_source(settings, print)
