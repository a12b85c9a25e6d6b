"""SFT with TRL, measured every 4 steps on what the model may forget: train.py MODEL ROWS.jsonl."""

import sys

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from harness import ForgettingCallback

model, rows = sys.argv[1:]
trainer = SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
    processing_class=AutoTokenizer.from_pretrained(model),
    args=SFTConfig(
        "out", max_steps=10, per_device_train_batch_size=8, learning_rate=3e-3, bf16=False, report_to="none", save_strategy="no"
    ),
    train_dataset=load_dataset("json", data_files=rows, split="train"),
)
# Against the model before the first step; `limit` is items of each task. The training stops where
# a loss of more than 10 points is shown.
ForgettingCallback(["tinyworld"], every=4, limit=100, stop_at={"tinyworld": 0.10}, name="trl").attach(trainer)
trainer.train()
