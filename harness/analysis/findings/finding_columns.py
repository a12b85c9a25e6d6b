"""Columns of the findings, which have one row per cell, volume, suite and task.

Name, dtype, meaning, unit and sign.
"""

from __future__ import annotations

from harness.analysis.table.columns import SUITE_TASK as SUITE_TASK
from harness.analysis.table.columns import specified

_SPECIFICATION = """
cell              string   id of the cell (runs that differ only in their seed): a hash of all that they share
experiment        string   folder of the experiment in results/
model             string   start model, as named in the configuration
params_total      Int64    number of parameters of the model
params_trainable  Int64    number of parameters that training updates
tuning            string   tuning: which weights are trained, such as full or lora
objective         string   training objective, such as sft or dpo
mitigation        string   mitigation of forgetting, or none
data              string   target data
anchor            string   anchor data, which represent what the model should keep
trajectory        string   shared: volumes are checkpoints of one run; independent: each volume is a run with its own schedule
epochs            Int64    passes over the target rows
learning_rate     Float64  peak learning rate
lr_tuned          boolean  whether the rate was searched for this model, tuning, objective, data and mitigation
arm               string   name of the experiment's arm, as the last command has it; empty without arms
variant           string   settings that distinguish the cell from others with the same labels; empty if there are none
dtype             string   floating-point type of the forward pass in training
is_control        boolean  whether the cell is a declared control, trained on known data: its change is the floor of the others
role              string   target: a suite that is being learned; probe: a suite that could be forgotten
suite             string   suite: a set of tasks judged by one metric
task              string   leaf task; * is the mean of the suite's tasks with equal weight
metric            string   metric that the suite is judged by
filter            string   lm-eval's answer filter; for a divergence suite, the source of its text: gold, base or tuned
higher_is_better  boolean  whether higher values of the metric are better
chance            Float64  value of uniform guessing, in the metric's unit
is_headline       boolean  whether this row is the headline suite: declared before any run, else the first probe suite of the page
volume            Int64    number of target rows seen once
n                 Int64    number of items of one seed
seeds             Int64    number of seeds that have a change
run_ids           string   runs of these seeds, in the order of the seeds, separated by commas
missing           Int64    number of seeds of the cell without a change here: failed, unfinished, not reached or not measured
before            Float64  value at volume 0, mean over seeds
after             Float64  value at this volume, mean over seeds
delta             Float64  after minus before, in the metric's unit; negative is worse if higher_is_better
stderr            Float64  standard error of delta over varies; for 0/1 items and two or more seeds, never 0 though few items changed
df                Float64  degrees of freedom of stderr (Satterthwaite)
delta_low         Float64  lower end of the interval of delta
delta_high        Float64  upper end of the interval of delta
level             Float64  confidence level of the interval, in 0..1
varies            string   samples that the interval is over: items (fewer than 3 seeds), or seeds and items
lost              Float64  number of items 1 before and 0 after, mean over seeds; empty for a metric that is not 0 or 1
gained            Float64  number of items 0 before and 1 after, mean over seeds; empty for a metric that is not 0 or 1
agreement         Float64  share of items with the same answer as before, mean over seeds, in 0..1
p_value           Float64  p-value of no change: for one seed the table's, for several Student's t of delta / stderr
p_mid             Float64  mid-p of McNemar's test of one seed; empty for several seeds
p_holm            Float64  p_mid, or p_value where it is empty, adjusted by Holm over the probe tasks of this cell and volume; else empty
tests             Int64    number of tests that p_holm adjusts for
margin            Float64  margin, declared or 0.02, in the metric's unit: a change known to be within ±margin is negligible
verdict           string   kept: interval inside ±margin; else lost or gained: p_holm, p_mid or p_value < 0.05; else not enough evidence
detectable        Float64  smallest true change found with probability at least 0.8, in the metric's unit; above 1 for a share: no change is
seed_spread       Float64  standard deviation of delta over seeds; empty for one seed
seed_spread_pooled Float64 standard deviation of delta between seeds that the suite's other cells suggest; empty for fewer than 3 seeds
spread_used       string   spread between seeds in stderr: pooled over cells, or the cell's own; empty for fewer than 3 seeds
seed_spread_used  Float64  that spread: seed_spread_pooled, or the cell's own (over all its volumes, where it is far above the others)
control_delta     Float64  delta of the control with the same model, tuning, learning rate, trajectory and volume; empty without one
contrast          Float64  delta minus control_delta, in the metric's unit; negative is worse than the control if higher_is_better
contrast_low      Float64  lower end of the interval of contrast, paired over items, seeds unpaired
contrast_high     Float64  upper end of the interval of contrast
contrast_varies   string   samples that the interval of contrast is over: items (fewer than 3 seeds in one of both), or seeds and items
contrast_p        Float64  p-value of no contrast: of one seed each McNemar's mid-p or sign flips; else Student's t
contrast_p_holm   Float64  contrast_p adjusted by Holm over the probe tasks of this cell and volume; empty for other rows
contrast_verdict  string   alike: interval of contrast inside ±margin; else worse or better: p < 0.05; else not enough evidence
control_check     string   whether the rate suits, by the control at the cell's largest volume: too high, not settled, passed; else empty
numeric_spread    Float64  absolute change of value at volume 0 with other batches and threads (rounding); empty if not measured twice
delta_relative    Float64  delta divided by before, mean over seeds; empty near chance
fg_over_volumes   Float64  percent of before lost (FG), mean over volumes up to this one and over seeds; positive is worse
near_chance       boolean  whether before is at most two standard errors better than guessing, for any seed
samplewise_forgetting Float64 share of items 1 before and 0 after, mean over seeds, in 0..1
backward_transfer Float64  share of items 0 before and 1 after, mean over seeds, in 0..1
samplewise_forgetting_true Float64 samplewise_forgetting minus the share expected from guessing, mean over seeds; may be negative
samplewise_forgetting_true_low Float64 lower end of its 95% interval over items; only for one seed
samplewise_forgetting_true_high Float64 upper end of its 95% interval over items; only for one seed
backward_transfer_true Float64 backward_transfer minus the share expected from guessing, mean over seeds; may be negative
backward_transfer_true_low Float64 lower end of its 95% interval over items; only for one seed
backward_transfer_true_high Float64 upper end of its 95% interval over items; only for one seed
forgetting_ceiling Float64 share of items known before, beyond guessing: the most that could be forgotten, mean over seeds
progress_lost     Float64  share of a loss's distance below guessing at volume 0 that is lost, mean over seeds
steps             Float64  optimizer steps so far, mean over seeds, as all columns below
train_tokens      Float64  target and anchor tokens so far
supervised_tokens Float64  tokens of train_tokens that have a loss
anchor_tokens     Float64  tokens of train_tokens from anchor rows
anchor_supervised_tokens Float64 tokens of supervised_tokens from anchor rows; empty in records that lack it
anchor_loss_share Float64  weight of anchor rows in the training loss, in 0..1: mean over steps of their share of its supervised tokens
generated_tokens  Float64  tokens generated for the run so far, before and during training, discarded ones included
extra_tokens      Float64  tokens so far of forward passes outside training and generation: reference model, Fisher, scoring
flops             Float64  floating-point operations of training so far
wall_seconds      Float64  seconds of training so far, without evaluation
peak_memory_bytes Float64  largest memory of the process so far, in bytes
train_loss        Float64  training loss since the previous volume, in nats per supervised token
train_penalty     Float64  mean penalty that a loss mitigation added to the loss of a step since the previous volume; empty without one
coefficient       Float64  coefficient of a weight mitigation for the weights measured; empty for the plain tuned weights
acceptance        Float64  share of generated rows that were accepted, mean over the cell's runs, in 0..1; empty without any
edit_rate         Float64  mean share of words in which training answers differ from the model's own first answers; empty if unknown
target_nats       Float64  nats per supervised token of the training targets under the start model; empty if unknown
acted             boolean  whether a method that generates data took effect (see table); if not, it is not ranked; else empty
"""
COLUMNS, DESCRIPTIONS = specified(_SPECIFICATION)
"""Column → dtype, in order, and column → description with unit and sign.

All dtypes are nullable: missing values are ``pd.NA``, never 0.
"""

TRUE_SHARES = ["samplewise_forgetting_true", "backward_transfer_true"]
"""Columns with an interval of their own, for one seed only."""

COSTS = ["steps", "train_tokens", "supervised_tokens", "anchor_tokens", "generated_tokens", "extra_tokens", "flops", "wall_seconds"]
COSTS += ["anchor_supervised_tokens", "anchor_loss_share", "peak_memory_bytes", "train_loss", "train_penalty", "coefficient"]
"""Costs of a cell up to a volume, and numbers of its training."""
