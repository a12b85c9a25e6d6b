"""Load a model and ask it for logits, likelihoods or text; the nursery of tiny models."""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.models.author import TransformersAuthor as TransformersAuthor
    from harness.models.forward import OnDevice as OnDevice
    from harness.models.hub import HubModel as HubModel
    from harness.models.nursery.chat import NurseryChat as NurseryChat
    from harness.models.nursery.family import Nursery as Nursery
    from harness.models.score import answer_nats as answer_nats
    from harness.models.score import masked_nats as masked_nats

__getattr__ = exports(__name__)
