"""Jinja2 templates with a budget of steps and size, which cannot reach Python and draw nothing.

The budget is counted, not timed, so that a template is accepted on all machines or on none. Every
repeat of a loop, filter and call is a step, and more if it is long or its values are.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from jinja2 import Environment, Template, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

STEPS = 1_000_000
"""Most steps of one rendering: a few seconds."""

SIZE = 10_000_000
"""Most characters, or items of a list, that a template makes."""

DIGITS = 4_000
"""Most digits of an integer that a template computes."""

STEPS_A_CALL, CHARACTERS_A_STEP, ITEMS_A_STEP, NODES_A_STEP = 5, 1_000, 10, 100

INVALID = (SyntaxError, RecursionError, MemoryError, OverflowError)
"""Errors of templates that Python cannot compile: too many nested blocks or brackets."""

FAILING = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError)
"""Errors of templates that fail while they are rendered, next to jinja2.TemplateError."""

_WIDE = frozenset("center ljust rjust zfill expandtabs to_bytes indent wordwrap batch slice tojson".split())
"""Filters and methods whose whole arguments are widths or counts."""

_PADDED = re.compile(r"%[^%a-zA-Z]*?\d{6}|\{[^{}]*:[^{}]*?\d{6}")
_NESTED = re.compile(r"%[^%a-zA-Z]*\*|\{[^{}]*:[^{}]*\{")


class TemplateLimitError(SecurityError):
    """A template that takes more than its budget, or draws at random."""


class _Template(Template):
    def new_context(self, *args: Any, **options: Any) -> Any:
        """Begin a rendering: its budget is whole."""
        self.environment.spent = 0  # type: ignore[attr-defined]
        return super().new_context(*args, **options)


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox with a budget for each rendering. Errors are SecurityErrors."""

    template_class = _Template
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.spent = 0
        self.filters = _Filters(self)
        self.globals["lipsum"] = _random

    def spend(self, steps: int) -> None:
        """Count steps. Raises TemplateLimitError."""
        self.spent += steps
        if self.spent > STEPS:
            raise TemplateLimitError(f"more than {STEPS:,} steps")

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parse a template, with steps in what repeats: loops, macros, blocks; and in ``~``."""
        parsed = super()._parse(source, name, filename)
        for joined in parsed.find_all(nodes.Concat):
            joined.nodes = [_stepping(one, 0, joined.lineno) for one in joined.nodes]
        part: Any
        for part in parsed.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)):
            step = _stepping(nodes.Const(None), _weight(part.body), part.lineno)
            part.body.insert(0, nodes.ExprStmt(step, lineno=part.lineno))
            if isinstance(part, nodes.For) and part.test is not None:
                part.test = _stepping(part.test, 1, part.lineno)
        return parsed

    def call(__self, __context: Any, __obj: Any, *args: Any, **options: Any) -> Any:
        """Call a function or method: steps of its own, of its arguments and of its result."""
        subject = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # wrapped by the sandbox: str.format
        __self.spend(STEPS_A_CALL)
        __self.charge(getattr(__obj, "__name__", ""), subject, (*args, *options.values()))
        return __self.checked(super().call(__context, __obj, *args, **options))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute a sum, product, power or formatted text whose size is within the limits."""
        if operator == "%" and isinstance(left, str):
            self.charge("%", left, right if isinstance(right, tuple) else (right,))
        elif operator in ("*", "**"):
            _require_small(operator, left, right)
        return self.checked(super().call_binop(context, operator, left, right))

    def charge(self, name: str, subject: Any, arguments: tuple[Any, ...]) -> None:
        """Count a call before it is made. Raises TemplateLimitError."""
        self.spend(1 + sum(map(_steps, (subject, *arguments))))
        if _estimate(name, subject, arguments) > SIZE:
            raise TemplateLimitError(f"a text or list of more than {SIZE:,} by {name}")

    def checked(self, value: Any) -> Any:
        """Return a result, counted. Raises TemplateLimitError."""
        if isinstance(value, str | bytes | list | tuple) and len(value) > SIZE:
            raise TemplateLimitError(f"a text or list of more than {SIZE:,}")
        self.spend(_steps(value))
        return value

    def concat(self, pieces: Iterable[str]) -> str:  # of compiled templates, which call no other join
        """Join what a template writes, as long as its size is within the limits."""
        found, made = [], 0
        for piece in pieces:
            found.append(piece)
            made += len(piece)
            if made > SIZE:
                raise TemplateLimitError(f"a text of more than {SIZE:,} characters")
        return "".join(found)


class _Filters(dict[str, Any]):
    """Filters that count what they are given; those added later too."""

    def __init__(self, environment: LimitedEnvironment) -> None:
        super().__init__()
        self.environment = environment
        for name, filter_ in environment.filters.items():
            self[name] = filter_
        super().__setitem__("step", pass_context(_step))
        self["random"] = _random

    def __setitem__(self, name: str, filter_: Callable[..., Any]) -> None:
        @functools.wraps(filter_)  # with Jinja's mark of filters that take a context first
        def counted(*values: Any, **options: Any) -> Any:
            given = values[1:] if hasattr(filter_, "jinja_pass_arg") else values
            self.environment.charge(name, given[0] if given else None, (*given[1:], *options.values()))
            return self.environment.checked(filter_(*values, **options))

        super().__setitem__(name, counted)


def _weight(body: list[nodes.Node]) -> int:
    """Return the steps of a body that is executed once."""
    parts = [part for one in body for part in (one, *one.find_all(nodes.Node))]
    text = sum(len(part.data) for part in parts if isinstance(part, nodes.TemplateData))
    return 1 + len(parts) // NODES_A_STEP + text // CHARACTERS_A_STEP


def _stepping(value: Any, steps: int, line: int) -> nodes.Filter:
    """Return an expression that counts steps whenever it is computed."""
    return nodes.Filter(value, "step", [nodes.Const(steps)], [], None, None, lineno=line)


def _step(context: Any, value: Any, steps: int) -> Any:
    context.environment.spend(steps)
    return context.environment.checked(value)


def _random(*_: Any, **__: Any) -> NoReturn:
    raise TemplateLimitError("a random draw, which gives another text each time")


def _steps(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value) // CHARACTERS_A_STEP
    return len(value) // ITEMS_A_STEP if isinstance(value, list | tuple | dict | range) else 0


def _estimate(name: str, subject: Any, arguments: tuple[Any, ...]) -> int:
    """Return about how much a call makes, if it is one that makes more than it is given."""
    texts = [len(one) for one in arguments if isinstance(one, str)]
    whole = [abs(one) for one in arguments if isinstance(one, int)]
    if name in _WIDE:
        lines = 1 + subject.count("\n") + subject.count("\t") if isinstance(subject, str) else _length(subject)
        return max([*whole, *texts], default=0) * max(1, lines)
    if name == "replace" and isinstance(subject, str) and len(texts) > 1:
        return len(subject) + subject.count(str(arguments[0])) * texts[1]
    if name == "join":
        return _joined(subject, arguments[0] if arguments else "")
    if name in ("format", "format_map", "%") and isinstance(subject, str):
        padded = _PADDED.search(subject) or (_NESTED.search(subject) and max(whole, default=0) >= 10**6)
        return SIZE + 1 if padded else (subject.count("%") + subject.count("{")) * max(texts, default=0)
    return 0


def _joined(one: Any, other: Any) -> int:
    """Return the characters of joined items: of a filter's list or of a method's argument."""
    items, separator = (other, one) if isinstance(one, str) and not isinstance(other, str) else (one, other)
    if not isinstance(items, str | list | tuple | dict | range):
        return 0
    inside = sum(len(item) for item in items if isinstance(item, str)) if isinstance(items, list | tuple) else 0
    return inside + len(items) * (len(separator) if isinstance(separator, str) else 1)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple | dict | bytes) else 1


def _require_small(operator: str, left: Any, right: Any) -> None:
    """Raise TemplateLimitError for a product or power that is too long to compute."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 0) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > DIGITS * 10 // 3:
            raise TemplateLimitError(f"an integer of more than {DIGITS:,} digits")
        return
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | bytes | list | tuple) and isinstance(times, int) and len(value) * times > SIZE:
            raise TemplateLimitError(f"a text or list of more than {SIZE:,} by {operator}")


def limited(environment: Environment) -> LimitedEnvironment:
    """Return a limited environment with the settings, filters and tests of another.

    It compiles a template once, which lm-eval does for every document.
    """
    made = LimitedEnvironment(
        trim_blocks=environment.trim_blocks,
        lstrip_blocks=environment.lstrip_blocks,
        keep_trailing_newline=environment.keep_trailing_newline,
        undefined=environment.undefined,
        extensions=list(map(type, environment.extensions.values())),
    )
    for name, filter_ in environment.filters.items():
        if name not in made.filters:
            made.filters[name] = filter_
    made.tests.update(environment.tests)
    made.from_string = functools.lru_cache(maxsize=1024)(made.from_string)  # type: ignore[method-assign, assignment]
    return made


def reason(error: BaseException) -> str:
    """Return what a template fails of, as a noun phrase or the error's own words."""
    text = " ".join(str(error).split())
    names: Mapping[type[BaseException], str] = {RecursionError: "calls nested too deeply", MemoryError: "more memory than there is"}
    return next((name for cls, name in names.items() if isinstance(error, cls)), text or type(error).__name__)
