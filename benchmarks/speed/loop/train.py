"""Fine-tune a model on the first rows of a file with transformers.Trainer and PEFT.

It is a step of the shell loop that `bench-sweep` compares `harness sweep` with, and does not use
the harness. It trains on the rows in their order, once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments, set_seed  # noqa: TID251

NO_LOSS = -100


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", required=True, help="name or folder")
    parser.add_argument("--rows", required=True, type=Path, help="JSON lines with prompt and completion")
    parser.add_argument("--volume", required=True, type=int, help="number of rows, from the first")
    parser.add_argument("--tuning", required=True, choices=["full", "lora"])
    parser.add_argument("--learning-rate", required=True, type=float)
    parser.add_argument("--warmup-steps", type=int, default=0, help="the first step already has a share of the rate")
    parser.add_argument("--batch-rows", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--weight-decay", type=float, default=0.0, help="of matrices; vectors have none")
    parser.add_argument("--betas", nargs=2, type=float, default=[0.9, 0.999])
    parser.add_argument("--epsilon", type=float, default=1e-8)
    parser.add_argument("--max-grad-norm", type=float, default=1.0)
    parser.add_argument("--lora-rank", type=int, default=16)
    parser.add_argument("--lora-alpha", type=float, default=32.0)
    parser.add_argument("--adapter-seed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help="of training")
    parser.add_argument("--output", required=True, type=Path)
    return parser.parse_args()


def encode(row: dict[str, str], tokenizer, max_length: int) -> dict[str, list[int]]:
    """Return ids and labels of prompt and completion as one text, ended by EOS.

    The prompt has no loss.
    """
    prompt = len(tokenizer(row["prompt"].rstrip())["input_ids"])
    ids = tokenizer(row["prompt"] + row["completion"])["input_ids"] + [tokenizer.eos_token_id]
    return {"input_ids": ids[:max_length], "labels": ([NO_LOSS] * prompt + ids[prompt:])[:max_length]}


def prepare(asked: argparse.Namespace):
    """Load the model, with an adapter in it for LoRA."""
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    if asked.tuning == "full":
        return model
    from peft import LoraConfig, get_peft_model

    set_seed(asked.adapter_seed)
    config = LoraConfig(r=asked.lora_rank, lora_alpha=asked.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def optimizer_and_schedule(model, asked: argparse.Namespace):
    """Return AdamW and a rate that rises, then stays constant."""
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in moving if parameter.ndim >= 2], "weight_decay": asked.weight_decay},
        {"params": [parameter for parameter in moving if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, lr=asked.learning_rate, betas=tuple(asked.betas), eps=asked.epsilon, fused=True)
    rises = max(asked.warmup_steps, 1)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / rises))


def main() -> None:
    asked = arguments()
    tokenizer = AutoTokenizer.from_pretrained(asked.model, padding_side="right")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    with asked.rows.open(encoding="utf-8") as lines:
        rows = [encode(json.loads(line), tokenizer, asked.max_length) for line, _ in zip(lines, range(asked.volume), strict=False)]
    model = prepare(asked)
    settings = TrainingArguments(
        output_dir=str(asked.output),
        num_train_epochs=1,
        per_device_train_batch_size=asked.batch_rows,
        train_sampling_strategy="sequential",
        max_grad_norm=asked.max_grad_norm,
        seed=asked.seed,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
    )
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        optimizers=optimizer_and_schedule(model, asked),
    )
    trainer.train()
    model.save_pretrained(asked.output)
    if asked.tuning == "full":  # an adapter uses its base model's tokenizer
        tokenizer.save_pretrained(asked.output)


if __name__ == "__main__":
    main()
