"""The columns of the findings: one row a cell, volume, suite and task.

Name, dtype, meaning and unit.
"""

from __future__ import annotations

from harness.analysis.table.columns import SUITE_TASK as SUITE_TASK
from harness.analysis.table.columns import specified

_SPECIFICATION = """
cell              string   the runs that differ only in their seed: a hash of all that they share
experiment        string   folder of results/
model             string   start model, as chosen
params_total      Int64    parameters of the model
params_trainable  Int64    parameters that training may move
tuning            string   which weights move
objective         string   what is learned
mitigation        string   what protects the past
data              string   target data
anchor            string   data that stand for the past
trajectory        string   shared: volumes are checkpoints of one run; independent: each is a run with its own schedule
epochs            Int64    passes over the target rows
learning_rate     Float64  peak learning rate
lr_tuned          boolean  whether that rate was searched for this model, tuning, objective, data and mitigation
arm               string   name of the experiment's arm, as the last command has it; empty without arms
variant           string   what tells the cell from others with the same labels; empty where nothing does
dtype             string   of the forward pass in training
is_control        boolean  whether it trains on what the model knows already, as the experiment declared: the floor of the others
role              string   target: being learned; probe: could be forgotten
suite             string   set of tasks judged by one metric
task              string   leaf task; * is the suite, its tasks with equal weight
metric            string   the metric its suite is judged by
filter            string   lm-eval's answer filter; of a divergence suite, whose text it is on
higher_is_better  boolean  direction of the metric
chance            Float64  value of uniform guessing
is_headline       boolean  whether this is the row of the suite that was declared as the headline before anything was run
volume            Int64    target rows seen once
n                 Int64    items of one seed
seeds             Int64    seeds that have a change
run_ids           string   their runs, by seed, with commas
missing           Int64    seeds of the cell that have none here: failed, unfinished or not measured
before            Float64  value at volume 0, mean over seeds
after             Float64  value at this volume, mean over seeds
delta             Float64  after minus before, in the metric's own unit and sign
stderr            Float64  standard error of delta, over what varies; of 0/1 items with what few changed ones leave open, from 2 seeds on
df                Float64  its degrees of freedom (Satterthwaite)
delta_low         Float64  lower end of delta's interval
delta_high        Float64  upper end of delta's interval
level             Float64  confidence of the interval
varies            string   what the interval is over: items (fewer than 3 seeds), or seeds and items
lost              Float64  items 1 before and 0 after, mean over seeds; empty for a metric that is not 0 or 1
gained            Float64  items 0 before and 1 after, mean over seeds; empty for a metric that is not 0 or 1
agreement         Float64  share of items answered as before, mean over seeds
p_value           Float64  of no change: one seed, as in the table; more, Student's t of delta / stderr
p_mid             Float64  McNemar's mid-p of one seed; empty for several
p_holm            Float64  p_value adjusted by Holm over the probe tasks of this cell and volume; empty for others
tests             Int64    tests that this was adjusted for
margin            Float64  a change within ±margin is none that matters, as declared
verdict           string   kept: the interval lies within ±margin; else lost or gained: adjusted p below 0.05; else not enough evidence
detectable        Float64  smallest true change found with probability 0.8 or more, in the metric's unit; of a share above 1: none is
seed_spread       Float64  standard deviation of delta over seeds; empty for one
control_delta     Float64  delta of the control: same model, tuning, learning rate, trajectory and volume; empty where none was run
control_low       Float64  lower end of its interval
control_high      Float64  upper end of its interval
numeric_spread    Float64  how far a value moves at volume 0 with other batches and threads; empty if not measured twice
delta_relative    Float64  delta divided by before, mean over seeds; empty near chance
fg_over_volumes   Float64  percent of before that is lost, mean over volumes up to this one and over seeds, positive is worse
near_chance       boolean  whether before is within two standard errors of chance, for any seed
samplewise_forgetting Float64 share of items 1 before and 0 after, mean over seeds
backward_transfer Float64  share of items 0 before and 1 after, mean over seeds
samplewise_forgetting_true Float64 what of samplewise_forgetting is more than guessing gives, unclipped, mean over seeds
samplewise_forgetting_true_low Float64 lower end of its 95% interval over items; of one seed only
samplewise_forgetting_true_high Float64 upper end of its 95% interval over items; of one seed only
backward_transfer_true Float64 what of backward_transfer is more than guessing gives, unclipped, mean over seeds
backward_transfer_true_low Float64 lower end of its 95% interval over items; of one seed only
backward_transfer_true_high Float64 upper end of its 95% interval over items; of one seed only
forgetting_ceiling Float64 what there is to forget beyond guessing, mean over seeds
progress_lost     Float64  share of the way from guessing to before that is lost, of a loss; mean over seeds
steps             Float64  optimizer steps so far, mean over seeds, as all below
train_tokens      Float64  target and anchor tokens so far
supervised_tokens Float64  of these, tokens with a loss
anchor_tokens     Float64  of train_tokens, the anchor's
generated_tokens  Float64  tokens that models wrote for the run so far, thrown away or not
extra_tokens      Float64  tokens of forward passes beside training's own and beside writing so far
flops             Float64  floating-point operations of training so far
wall_seconds      Float64  seconds of training so far, without evaluation
peak_memory_bytes Float64  largest memory of the process so far
train_loss        Float64  nats per supervised token since the previous volume
train_penalty     Float64  what a loss remedy added to the loss of a step since the previous volume; empty where there is none
coefficient       Float64  of a weight remedy, the coefficient of the weights that were measured; empty for plain tuned weights
acceptance        Float64  share of rows for which something that models wrote was accepted, mean over the cell's runs; empty without any
edit_rate         Float64  share of words by which what is trained on differs from the model's own first answer
target_nats       Float64  nats per supervised token of the targets trained on, under the start model
acted             boolean  whether acceptance is at least 0.2: below, a remedy (no objective) did not act, is not ranked; empty without
"""
COLUMNS, DESCRIPTIONS = specified(_SPECIFICATION)
"""Column → dtype, in order; all are nullable: what is missing is ``pd.NA``, never 0. Column →
what it holds, and its unit."""

TRUE_SHARES = ["samplewise_forgetting_true", "backward_transfer_true"]
"""Columns that have an interval of their own, of one seed."""

COSTS = ["steps", "train_tokens", "supervised_tokens", "anchor_tokens", "generated_tokens", "extra_tokens", "flops", "wall_seconds"]
COSTS += ["peak_memory_bytes", "train_loss", "train_penalty", "coefficient"]
"""What a cell cost up to a volume, and how it was trained."""
