"""Columns of the tidy table: name, dtype, meaning, unit and sign.

A quantity has one name everywhere: yaml key, field, column and axis label.
"""

from __future__ import annotations

SUITE_TASK = "*"
"""Value of the task column in a suite's own row."""

ACTED = 0.2
"""Acceptance below which a method that generates data did not act: it is shown, but not ranked."""


def specified(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """Parse lines ``name dtype description``.

    Returns:
        Column → dtype, and column → description, both in the order of the lines.
    """
    lines = [line.split(maxsplit=2) for line in text.strip().splitlines()]
    return {name: dtype for name, dtype, _ in lines}, {name: description for name, _, description in lines}


_SPECIFICATION = """
experiment        string   folder of the experiment in results/
run_id            string   id of the run: one training trajectory of one seed
model             string   start model, as named in the configuration
params_total      Int64    number of parameters of the model
params_trainable  Int64    number of parameters that training updates
tuning            string   tuning: which weights are trained, such as full or lora
objective         string   training objective, such as sft or dpo
mitigation        string   mitigation of forgetting, or none
data              string   target data
anchor            string   anchor data, which represent what the model should keep
reference         string   model measured at volume 0, if it is not the start model
volume            Int64    number of target rows seen once, or as axis says; 0 is before training
axis              string   unit of volume: rows; of a training elsewhere also steps, or checkpoint (volume 1) where the step is unknown
trajectory        string   shared: volumes are checkpoints of one run; independent: each volume is a run with its own schedule
epochs            Int64    passes over the target rows
steps             Int64    optimizer steps so far
target_rows       Int64    target rows trained on so far, repetitions included
anchor_rows       Int64    anchor rows trained on so far, repetitions included
train_tokens      Int64    target and anchor tokens so far; for preference pairs both answers, for rewards the rollouts learned from
supervised_tokens Int64    tokens of train_tokens that have a loss
anchor_tokens     Int64    tokens of train_tokens from anchor rows
anchor_supervised_tokens Int64 tokens of supervised_tokens from anchor rows; empty in records that lack it
anchor_loss_share Float64  weight of anchor rows in the training loss, in 0..1: mean over steps of their share of its supervised tokens
left_out_rows     Int64    rows of the target data that teach nothing, so that no volume has them; empty where they were not counted
truncated_rows    Int64    rows trained on so far whose end was cut at training.max_length, anchor rows and repetitions included
repeated_rows     Int64    rows of the run's largest volume that repeat an earlier one
generated_tokens  Int64    tokens generated for the run so far, before and during training, discarded ones included
extra_tokens      Int64    tokens so far of forward passes outside training and generation: reference model, Fisher, scoring
learning_rate     Float64  peak learning rate
lr_tuned          boolean  whether the rate was searched for this model, tuning, objective, data and mitigation
seed              Int64    seed of the run
dtype             string   floating-point type of the forward pass in training
arm               string   name of the experiment's arm, as the last command has it; empty without arms
variant           string   settings that distinguish the run from others with the same labels and seed; empty if there are none
acceptance        Float64  share of generated rows accepted, in 0..1 (of a mitigation: other than copies of gold); empty without any
edit_rate         Float64  mean share of words in which training answers differ from the model's own first answers; empty if unknown
target_nats       Float64  nats per supervised token of the training targets under the start model; empty if unknown
acted             boolean  whether a method that generates data took effect: acceptance at least 0.2, for an objective any row; else empty
coefficient       Float64  coefficient of a weight mitigation for the weights measured; empty for the plain tuned weights
role              string   target: a suite that is being learned; probe: a suite that could be forgotten
suite             string   suite: a set of tasks judged by one metric
task              string   leaf task; * is the mean of the suite's tasks with equal weight
metric            string   name of the metric
filter            string   lm-eval's answer filter; for a divergence suite, the source of its text: gold, base or tuned
evaluation_id     string   id of the evaluation: equal ids are scores of equal tasks, prompts and settings
primary           boolean  whether this is the metric that the suite is judged by
n                 Int64    number of items with a value
value             Float64  value of the metric, in its own unit
stderr            Float64  standard error of value over items
value_low         Float64  lower end of the 95% interval of value over items
value_high        Float64  upper end of the 95% interval of value over items
chance            Float64  value of uniform guessing, in the metric's unit
higher_is_better  boolean  whether higher values of the metric are better
before            Float64  value at volume 0
delta             Float64  value minus before, in the metric's unit; negative is worse if higher_is_better
delta_low         Float64  lower end of the 95% interval of delta, paired over items
delta_high        Float64  upper end of the 95% interval of delta, paired over items
delta_relative    Float64  delta divided by before, with the sign of delta; empty near chance
fg_over_volumes   Float64  percent of before lost (FG), mean over the run's volumes so far; positive is worse; of a suite, mean over tasks
near_chance       boolean  whether before is at most two standard errors better than guessing; empty without a guessing level
lost              Int64    number of items 1 before and 0 now; empty for a metric that is not 0 or 1
gained            Int64    number of items 0 before and 1 now; empty for a metric that is not 0 or 1
agreement         Float64  share of items with the same answer as at volume 0 (likeliest choice or generated text); empty without answers
p_value           Float64  p-value of no change: exact McNemar, for other metrics a paired permutation test; not adjusted
p_mid             Float64  mid-p of McNemar's test, less conservative than p_value; empty where p_value is not McNemar's
samplewise_forgetting Float64  share of items 1 before and 0 now, in 0..1
backward_transfer Float64  share of items 0 before and 1 now, in 0..1
samplewise_forgetting_true Float64 samplewise_forgetting minus the share expected from guessing; not clipped, so it may be negative
samplewise_forgetting_true_low Float64  lower end of its 95% interval over items
samplewise_forgetting_true_high Float64  upper end of its 95% interval over items
backward_transfer_true Float64  backward_transfer minus the share expected from guessing; not clipped, so it may be negative
backward_transfer_true_low Float64  lower end of its 95% interval over items
backward_transfer_true_high Float64  upper end of its 95% interval over items
forgetting_ceiling Float64  share of items known before, beyond guessing: the most that could be forgotten, in 0..1
progress_lost     Float64  share of a loss's distance below guessing at volume 0 that is lost; negative where the distance grew
protocol_agreement Float64 share of items judged alike when the answer is generated and when it is chosen; in rows of the generated task
numeric_spread    Float64  absolute change of value at volume 0 with other batches and threads (rounding); empty if not measured twice
numeric_spread_nats Float64 largest such change of an item's log-likelihood, in nats; empty for generated answers
unparsed          Float64  share of items whose generated answer could not be parsed, in 0..1
prompt_truncated  Float64  share of items whose prompt was cut to fit the context, in 0..1
answer_truncated  Float64  share of items whose answer ended only at its length limit or was cut to fit the context, in 0..1
repeated_items    Int64    documents of the task left out since they repeat another one; of a suite, of all its tasks; empty if not counted
train_loss        Float64  training loss since the previous volume, in nats per supervised token
train_penalty     Float64  mean penalty that a loss mitigation added to the loss of a step since the previous volume; empty without one
weight_change     Float64  Euclidean norm of the change of all weights
flops             Float64  floating-point operations of training so far
wall_seconds      Float64  seconds of training so far, without evaluation
peak_memory_bytes Int64    largest memory of the process so far, in bytes
protocol_version  Int64    version of the measurement protocol; results of different versions are never mixed
status            string   status of the row: ok, failed, unfinished or not reached (a volume that all accepted rows are too few for)
reason            string   reason why the row failed or has no delta
"""
COLUMNS, DESCRIPTIONS = specified(_SPECIFICATION)
"""Column → dtype, in the table's order, and column → description with unit and sign.

All dtypes are nullable: missing values are ``pd.NA``, never NaN.
"""

LATE = ("arm", "variant")
"""Columns that the experiment decides, not the run alone: added when the table is made."""
