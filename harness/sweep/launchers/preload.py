"""Imports that all workers share: workers are forked from the process that has imported this."""

import atexit
import contextlib
import ctypes
import gc
import os
import signal
import sys

FORKS_WORKERS = any("multiprocessing.forkserver" in argument for argument in sys.orig_argv)
"""Whether this is that process, and not another one that imports this module."""

PR_SET_PDEATHSIG = 1

if FORKS_WORKERS:
    # The imports below take seconds, during which it would not notice that its coordinator is gone
    # (on Linux; elsewhere it notices after them).
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    atexit.register(os._exit, 0)  # a regular exit would take seconds to free all modules

import datasets  # noqa: E402, F401
import lm_eval.evaluator  # noqa: E402
import lm_eval.models.huggingface  # noqa: E402
import lm_eval.tasks  # noqa: E402, F401
import peft  # noqa: E402, F401
import torch  # noqa: E402, F401
import transformers.models.llama.modeling_llama  # noqa: E402, F401

import harness.evaluation.prefix.lm  # noqa: E402
import harness.sweep.worker  # noqa: E402
import harness.training.loop  # noqa: E402, F401

if FORKS_WORKERS:
    gc.freeze()  # the Trainer collects garbage before each training; imported objects stay and need no walk
