"""Items that can be asked: a prompt, choices that have text, and a gold answer among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.core.errors import EvaluationError, explain

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task


def unaskable(task: Task, index: int, got: str) -> EvaluationError:
    """Return the error for a document that makes no item."""
    where, fix = f"task {task.config.task}, document {index}", "correct the document, or the templates in the task's yaml"
    return EvaluationError(explain(where, got=got, allowed="a prompt, choices with text, and a gold answer among them", fix=fix))


def fault(task: Task, doc: Any, requests: Sequence[Instance], target: Any) -> str:
    """Return why lm-eval cannot score an item, or would score it as wrong for every model.

    Empty for an item without a fault. A task whose own code scores its items decides by itself.
    """
    if task.OUTPUT_TYPE == "generate_until":
        from lm_eval.models.utils import normalize_gen_kwargs

        normalize_gen_kwargs(dict(requests[0].args[1]), 0)
    elif any(isinstance(part, str) and not part for request in requests for part in request.args[-1:]):
        return "an empty answer"
    if callable(task.config.process_results) or task.config.doc_to_choice is None:
        return ""
    choices = task.doc_to_choice(doc)
    if not choices or not isinstance(choices, list | tuple):
        return f"{choices!r} as its choices"
    if odd := [choice for choice in choices if not isinstance(choice, str) or not choice]:
        return f"the choice {odd[0]!r}"
    gold = task.doc_to_text(doc) if task.multiple_input else target
    right = gold if isinstance(gold, list) and gold else [gold]
    if any(one not in range(len(choices)) and not (isinstance(one, str) and one in choices) for one in right):
        return f"the gold answer {gold!r} with {len(choices)} choices"
    return ""
