"""Imports that all sections share; nothing here may use a GPU, which a fork could not use then."""

import gc

import lm_eval.models.huggingface  # noqa: F401
import peft  # noqa: F401
import torch  # noqa: F401
import transformers
import transformers.models.llama.modeling_llama  # noqa: F401

import harness.evaluation.prefix.lm
import harness.methods.contract.tiny
import harness.training.loop  # noqa: F401

gc.freeze()
