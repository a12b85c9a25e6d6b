# %% [markdown]
# # Reading results in Python
#
# Every table is a pandas DataFrame; torch is not needed. This reads the results of
# `examples/own_sweep`, in the folder where that sweep was run.

# %%
import harness

results = harness.load("own_sweep")  # a name in ./results, or a path such as "results/own_sweep"

# %% [markdown]
# The change of each method at each volume, over its seeds, with its 95% interval and its verdict.

# %%
findings = results.findings()
suites = findings[findings["task"] == "*"]  # the other rows are the tasks of a suite
print(suites[["arm", "suite", "volume", "delta", "delta_low", "delta_high", "verdict"]].round(3).to_string(index=False))

# %% [markdown]
# The tidy table has a row for each run, volume, task and metric. Here: accuracy on the probe
# suite, mean over seeds.

# %%
table = results.table()
probe = table[(table["suite"] == "tinyworld") & (table["task"] == "*") & table["primary"]]
print(probe.pivot_table(index="volume", columns="arm", values="value").round(3))

# %% [markdown]
# The items that a run lost or gained, with prompt and answers. Which tasks lost most, over all
# runs?

# %%
items = results.items()
print(items.groupby(["suite", "task"])["outcome"].value_counts().unstack(fill_value=0))
