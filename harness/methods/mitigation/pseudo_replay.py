"""Pseudo-replay: rehearse texts that the start model writes, without old data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.config.strict import check
from harness.core.contexts import GeneratedRow, Sampling, WritingContext
from harness.core.errors import DataError, explain
from harness.core.methods import Objective
from harness.core.rows import Example, Row, RowKind, Turn
from harness.core.sources import Source
from harness.core.tuning import Tuning
from harness.methods.mitigation.replay import Replay
from harness.methods.rewriting import Rehearsing, check_sampling

TRIES = 10
"""Texts drawn for one row before an error. Empty texts, and missing or cut answers, are dropped."""


@dataclass(frozen=True, kw_only=True)
class PseudoReplay(Rehearsing):
    """Mix texts of the start model into the target rows: floor(γ·k) after k target rows.

    The texts are written before training. Each is drawn from the beginning of a text, or from
    ``prefix`` (a task token, the tag of the user), at ``temperature`` from the ``top_k`` likeliest
    tokens, by random numbers of its own. Without a ``separator`` it is learned as a text; with one,
    it is a prompt without a loss up to the end of the first separator, and then an answer. In
    prompt format ``chat``, prefix and separator are removed, since the chat template writes its
    tags: they must be exactly these tags. A chat model whose user's turn closes with an end token
    stops there, before the separator, and cannot be rehearsed with questions and answers. The texts
    are mixed in like ``replay`` in its mode ``additive``, and add γ rows per target row.

    Reference: LAMOL, Sun et al. 2020, arXiv 1909.03329, section 3.2: γ·|D_new| pseudo-samples by
    top-20 sampling from a task token; γ is 0.05 by default in its code and 0.2 in the paper's main
    results. Differs from the paper: no language-modelling loss on the new data (λ = 0.25), so every
    row has the same weight; the model was not trained to write after a task token, so a prefix is a
    text that it knows. A plain text cut at ``max_new_tokens`` is learned without an end (EOS); a
    cut answer is drawn again. Checked against: rows and counts by hand.

    Attributes:
        fraction: γ, rehearsal rows per target row, 0 to 1.
        prefix: beginning of each text; empty for the beginning of a text (BOS, or EOS without a
            BOS).
        separator: end of a prompt, such as the tag of the assistant; empty for plain texts.
        temperature: of the texts.
        top_k: draw from this number of likeliest tokens; null from all.
        max_new_tokens: of each text.
    """

    strength: ClassVar[str] = "fraction"

    fraction: float = 0.2
    prefix: str = ""
    separator: str = ""
    temperature: float = 1.0
    top_k: int | None = 20
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        """Check ranges."""
        check("mitigation.fraction", self.fraction, "from 0 to 1", lambda value: 0 <= value <= 1)
        check("mitigation.temperature", self.temperature, "greater than 0: at 0 all texts are equal", lambda value: value > 0)
        check_sampling("mitigation", vars(self))

    @property
    def kind(self) -> RowKind:
        """Kind of its rows."""
        return "completion" if self.separator else "text"

    def rejects(self, objective: Objective, tuning: Tuning, data: Source) -> str:
        """Reject objectives that learn no tokens, and those that do not accept its rows."""
        if objective.learns != "tokens":
            return f"an objective that learns {objective.learns}, which rehearsal rows are not"
        if self.kind in objective.needs:
            return ""
        how = "without" if self.kind == "text" else "with"
        return f"{self.kind} rows ({how} mitigation.separator), which the objective does not accept"

    def anchor_rows(self, target_rows: int) -> int:
        """Return floor(γ · target rows)."""
        return self._mixing.anchor_rows(target_rows)

    def mix(self, steps: Sequence[Sequence[Example]], anchor: Sequence[Example]) -> list[list[Example]]:
        """Return the rows of every step, with the rehearsal rows that are due in it."""
        return self._mixing.mix(steps, anchor)

    @property
    def _mixing(self) -> Replay:
        return Replay(fraction=self.fraction, mode="additive")

    def made(self, numbers: Sequence[int], context: WritingContext) -> list[GeneratedRow]:
        """Write the texts of these numbers. Raises DataError if the model writes no valid text."""
        prompt = self._prompt(context)
        found: dict[int, GeneratedRow] = {}
        spent = dict.fromkeys(numbers, 0)
        sampling = Sampling(self.max_new_tokens, self.temperature, self.top_k)
        for attempt in range(TRIES):
            waiting = [number for number in numbers if number not in found]
            written = context.own.write([prompt] * len(waiting), [f"{context.seed} rehearsal {n} {attempt}" for n in waiting], sampling)
            for number, ids in zip(waiting, written, strict=True):
                spent[number] += len(ids)
                if row := self._row(list(ids), context):
                    found[number] = GeneratedRow(row, accepted=True, how=self.kind, generated_tokens=spent[number], tried=(row.text,))
        if len(found) < len(spent):
            nothing = f"no whole answer after {self.separator!r}" if self.separator else "nothing"
            got = f"a start model that wrote {nothing} in {TRIES} tries, prompted with {self.prefix!r}"
            fix = "a mitigation.prefix that it continues, or a larger mitigation.max_new_tokens"
            raise DataError(explain("mitigation: pseudo-replay", got=got, allowed="a model that writes texts like those it knows", fix=fix))
        return [found[number] for number in numbers]

    def _prompt(self, context: WritingContext) -> tuple[int, ...]:
        tokenizer = context.own.tokenizer
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        return (*([] if begin is None else [begin]), *tokenizer.encode(self.prefix, add_special_tokens=False))

    def _row(self, ids: list[int], context: WritingContext) -> Row | None:
        """Return written tokens as a row, or None if they are no valid text.

        Its end is removed, and tags that a template writes.
        """
        ended = context.own.ended(ids)
        ids = ids[:-1] if ended else ids
        tokenizer = context.own.tokenizer
        templated = bool(self.separator) and context.prompt_format == "chat"
        begun = [] if templated else tokenizer.encode(self.prefix, add_special_tokens=False)
        text = str(tokenizer.decode([*begun, *ids])).strip()
        if not self.separator:
            without_end = None if ended else (0, -1)
            return Row((Turn("text", text),), "text", without_end) if ids and text else None
        before, found, answer = text.partition(self.separator)
        if not (found and answer.strip() and ended):
            return None
        asked = before.strip() if templated else f"{before}{found}".rstrip()
        return Row((Turn("user", asked), Turn("assistant", f" {answer.strip()}")), "completion")
