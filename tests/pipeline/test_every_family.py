"""The whole road from an encoder of another family: to an artifact that the engine and transformers run alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from family_tokenizers import family_tokenizer
from forked import run
from tiny import QUICK_PRUNETIME, last_object, write_tsv
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import prunetime
import prunetime.models.hf  # noqa: F401  (registers the classes)
from prunetime.models.names import NAMES
from prunetime.tasks.synthetic import ad_relevance

SIZES = {"layers": 2, "hidden": 64, "heads": 4, "ffn": 256, "positions": 66, "embedding": 32}


def made(family: str, folder: Path) -> Path:
    """A random encoder of the family with a tokenizer for the generated ads, as `save_pretrained` leaves it."""
    columns = ad_relevance(200, 0).columns
    tokenizer = family_tokenizer(family, columns["query"] + columns["title"])
    tokenizer.save_pretrained(folder)
    names = NAMES[family].sizes
    sizes = {names[name]: size for name, size in (SIZES | {"vocabulary": len(tokenizer)}).items() if name in names}
    torch.manual_seed(0)
    special = {"pad_token_id": tokenizer.pad_token_id}
    if family == "modernbert":  # windows are narrower than the texts
        special |= {
            "cls_token_id": tokenizer.cls_token_id,
            "sep_token_id": tokenizer.sep_token_id,
            "local_attention": 8,
        }
        special |= {"bos_token_id": None, "eos_token_id": None}
    config = AutoConfig.for_model(family, **special, **sizes)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["roberta", "electra", "mpnet", "modernbert"])
def test_the_whole_road(family: str, tmp_path: Path) -> None:
    model, data = made(family, tmp_path / "model"), write_tsv(ad_relevance(800, 0), tmp_path / "ads.tsv")
    command = [
        *QUICK_PRUNETIME, "prune", "--model", str(model), "--data", str(data), "--text", "query,title",
        "--label", "label", "--group", "query", "--latency", "70%", "--seq-len", "24", "--effort", "quick",
        "--precision", "fp32", "--out", str(tmp_path / "run"), "--json",
    ]  # fmt: skip
    ran = run(command)
    assert ran.returncode == 0, ran.stderr
    folder = last_object(ran.stdout)["artifact"]
    texts = [("red sofa", "velvet couch in red, 3 seats"), ("lamp", "x" * 80), ("garden hose 20m", "hose")]
    ours = prunetime.load(folder)
    assert ours.manifest.config.family == family
    tokenizer, theirs = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForSequenceClassification.from_pretrained(folder),
    )
    inputs = tokenizer(
        [list(pair) for pair in texts], padding=True, truncation="longest_first", max_length=24,
        return_tensors="pt", return_token_type_ids=True,
    )  # fmt: skip
    with torch.no_grad():
        logits = theirs.eval()(**inputs).logits.numpy()
    np.testing.assert_allclose(ours.engine.logits(ours.tokenize(texts)), logits, rtol=1e-4, atol=1e-4)
