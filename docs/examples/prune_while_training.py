"""Fine-tunes a classifier on a TSV file (columns a, b, label) down to 40 % of its layer weights.

python docs/examples/prune_while_training.py MODEL train.tsv OUT
"""

import csv
import pathlib
import sys

from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from prunetime.pruning.callback import MultilevelPruning

name, data, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)
with pathlib.Path(data).open(encoding="utf-8") as file:
    rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
examples = [
    {**tokenizer(row["a"], row["b"], truncation=True, max_length=64), "label": int(row["label"])} for row in rows
]

arguments = TrainingArguments(
    out, num_train_epochs=3, per_device_train_batch_size=32, learning_rate=5e-5, warmup_steps=0.1, report_to=[]
)
pruning = MultilevelPruning(model, 0.4)
trainer = Trainer(
    model,
    arguments,
    train_dataset=examples,
    data_collator=DataCollatorWithPadding(tokenizer),
    callbacks=[pruning],
)
trainer.train()
pruning.compact().save_pretrained(out)
tokenizer.save_pretrained(out)
