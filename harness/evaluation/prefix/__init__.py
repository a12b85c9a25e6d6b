"""`prefix`: an LM class for lm-eval that computes once what requests share.

tree        token sequences to trees in which each shared token stands once, at the least cost
attention   attention of many trees packed into one row without padding, and the kept keys and values of shared prefixes
engine      trees to batches to log-probabilities; memory that runs out
check       whether a model may be shared: a few sequences against its plain forward pass
generation  greedy continuations of many prompts, each leaving the batch when it is done
lm          the class that lm-eval sees
"""
