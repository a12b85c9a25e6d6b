"""The columns of the tidy table: name, dtype, meaning and unit.

One vocabulary: yaml key = field = column = axis label.
"""

from __future__ import annotations

SUITE_TASK = "*"
"""What the task column says in a suite's own row."""

ACTED = 0.2
"""A method whose written data were accepted for a smaller share of rows did not act: it is
shown, and not ranked."""


def specified(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return column → dtype and column → what it holds, of lines ``name dtype what it holds``, in their order."""
    lines = [line.split(maxsplit=2) for line in text.strip().splitlines()]
    return {name: dtype for name, dtype, _ in lines}, {name: what for name, _, what in lines}


_SPECIFICATION = """
experiment        string   folder of results/
run_id            string   one training trajectory
model             string   start model, as chosen
params_total      Int64    parameters of the model
params_trainable  Int64    parameters that training may move
tuning            string   which weights move
objective         string   what is learned
mitigation        string   what protects the past
data              string   target data
anchor            string   data that stand for the past
reference         string   model that volume 0 is measured on, where that is not the start model
volume            Int64    target rows seen once; 0 is before
trajectory        string   shared: volumes are checkpoints of one run; independent: each is a run with its own schedule
epochs            Int64    passes over the target rows
steps             Int64    optimizer steps so far
target_rows       Int64    target rows trained on so far, each time they were seen
anchor_rows       Int64    anchor rows trained on so far
train_tokens      Int64    target and anchor tokens so far; of pairs both answers, of rewards what the model wrote and learned from
supervised_tokens Int64    of these, tokens with a loss
anchor_tokens     Int64    of train_tokens, the anchor's
generated_tokens  Int64    tokens that models wrote for the run so far, before training and in it, thrown away or not
extra_tokens      Int64    tokens of forward passes beside training's own and beside writing so far: reference model, Fisher, scoring
learning_rate     Float64  peak learning rate
lr_tuned          boolean  whether that rate was searched for this model, tuning, objective, data and mitigation
seed              Int64    of the run
dtype             string   of the forward pass in training
arm               string   name of the experiment's arm, as the last command has it; empty without arms
variant           string   what tells the run from others with the same labels and seed; empty where nothing does
acceptance        Float64  share of the rows that models were to write that were accepted (by a remedy: no copy of gold); empty without any
edit_rate         Float64  share of words by which what is trained on differs from the model's own first answer, mean over rows; if known
target_nats       Float64  nats per supervised token of the targets trained on, under the start model; if known
acted             boolean  whether acceptance is at least 0.2: below, a remedy did not act (an objective did); empty where none was to be
coefficient       Float64  of a weight remedy, the coefficient of the weights that were measured; empty for plain tuned weights
role              string   target: being learned; probe: could be forgotten
suite             string   set of tasks judged by one metric
task              string   leaf task; * is the suite, its tasks with equal weight
metric            string   name of the metric
filter            string   lm-eval's answer filter; of a divergence suite, whose text it is on: gold, base or tuned
primary           boolean  whether the suite is judged by this metric
n                 Int64    items with a value
value             Float64  the metric, in its own unit
stderr            Float64  standard error of value over items
value_low         Float64  lower end of value's 95% interval over items
value_high        Float64  upper end of value's 95% interval over items
chance            Float64  value of uniform guessing
higher_is_better  boolean  direction of the metric
before            Float64  value at volume 0
delta             Float64  value minus before
delta_low         Float64  lower end of delta's 95% interval, paired over items
delta_high        Float64  upper end of delta's 95% interval, paired over items
delta_relative    Float64  delta divided by before, in the metric's own sign; empty near chance
fg_over_volumes   Float64  percent of before lost (FG), mean over the run's volumes so far, positive is worse; of a suite, its tasks' mean
near_chance       boolean  whether before is at most two standard errors better than guessing; empty where guessing has no level
lost              Int64    items 1 before and 0 now; empty for a metric that is not 0 or 1
gained            Int64    items 0 before and 1 now; empty for a metric that is not 0 or 1
agreement         Float64  share of items answered as at volume 0, by the likeliest choice or the same text; empty where there is neither
p_value           Float64  of no change: exact McNemar, for other metrics a paired permutation test; not adjusted for several tests
p_mid             Float64  of no change: McNemar's mid-p, less cautious than the exact p; empty where p_value is not McNemar's
samplewise_forgetting Float64  share of items 1 before and 0 now
backward_transfer Float64  share of items 0 before and 1 now
samplewise_forgetting_true Float64 samplewise_forgetting beyond what guessing explains; not clipped: below 0 where guessing loses more
samplewise_forgetting_true_low Float64  lower end of its 95% interval over items
samplewise_forgetting_true_high Float64  upper end of its 95% interval over items
backward_transfer_true Float64  backward_transfer beyond what guessing explains; not clipped
backward_transfer_true_low Float64  lower end of its 95% interval over items
backward_transfer_true_high Float64  upper end of its 95% interval over items
forgetting_ceiling Float64  share of items known before, beyond guessing: what there is to forget
progress_lost     Float64  of a loss, the share of its distance below guessing at volume 0 that is lost; below 0 where it grew
protocol_agreement Float64 share of items right, or wrong, both where the answer is written and where it is chosen; in rows of the first
numeric_spread    Float64  how far value moves at volume 0 with other batches and threads: rounding alone; empty if not measured twice
numeric_spread_nats Float64 largest such move of an item's log-likelihood, in nats; empty where text is generated
unparsed          Float64  share of items whose generated answer could not be parsed
prompt_truncated  Float64  share of items whose prompt was cut to fit the context
answer_truncated  Float64  share of items whose answer ended at its length limit alone, or was cut to fit the context
train_loss        Float64  nats per supervised token since the previous volume
train_penalty     Float64  what a loss remedy added to the loss of a step, mean since the previous volume; empty where there is none
weight_change     Float64  Euclidean norm of the change of all weights
flops             Float64  floating-point operations of training so far
wall_seconds      Float64  seconds of training so far, without evaluation
peak_memory_bytes Int64    largest memory of the process so far
protocol_version  Int64    results of different versions are never mixed
status            string   ok, failed or unfinished
reason            string   why it failed, or why it has no delta
"""
COLUMNS, DESCRIPTIONS = specified(_SPECIFICATION)
"""Column → dtype, in the table's order; all are nullable: what is missing is ``pd.NA``, never
NaN. Column → what it holds, and its unit."""

LATE = ("arm", "variant")
"""Columns that the experiment decides, not the run alone: added when the table is made."""
