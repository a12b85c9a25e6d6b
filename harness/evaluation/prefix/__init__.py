"""`prefix`: an LM class for lm-eval that computes shared parts of requests once.

tree        token sequences to trees with each shared token once, at the least cost
attention   attention of many trees in one row without padding; kept keys and values of prefixes
engine      trees to batches to log-probabilities; smaller batches where memory runs out
check       check of a model's shared passes against its plain forward pass
generation  greedy continuations of many prompts, each leaving the batch when it is done
lm          the class that lm-eval sees
"""
