"""What every worker needs, imported once: workers are forked from the process that has imported this."""

import atexit
import contextlib
import ctypes
import gc
import os
import signal
import sys

FORKS_WORKERS = any("multiprocessing.forkserver" in argument for argument in sys.orig_argv)
"""Whether this is that process, and nobody who imports this module for another reason."""

PR_SET_PDEATHSIG = 1

if FORKS_WORKERS:
    # The imports below take seconds, in which it would not notice that its coordinator is gone
    # (Linux; elsewhere it does after them).
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    atexit.register(os._exit, 0)  # taking all of this down tidily would take seconds more, and serve nobody

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
    gc.freeze()  # the Trainer has everything collected before each training; what is imported here stays, and need not be walked
