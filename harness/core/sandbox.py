"""Jinja2 templates with a budget of steps and size, which cannot reach Python and draw nothing.

The budget is counted, not timed, so that a template is accepted on all machines or on none. Every
repeat of a loop, filter, test, call and operator is a step, and more if it is long or its values
are: what is written, compared or given to a filter is counted with all that is inside.

What the count underrates ends after ``SECONDS`` of processor time: wherever a step is counted, and
in the main thread between any two instructions of Python and inside regular expressions. Not
covered: a single call into C that takes more than linear time (a search for a text in one that
almost repeats it, keys whose hashes collide), a regular expression in another thread, a process
with a handler of SIGVTALRM of its own, and how many documents a template is rendered for.
"""

from __future__ import annotations

import functools
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from jinja2 import Environment, Template, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from harness.core.sizes import CHARACTERS_A_STEP, CHARACTERS_AN_ITEM, DIGITS, SIZE, characters, estimate

STEPS = 1_000_000
"""Most steps of one rendering: a few seconds."""

SECONDS = 60
"""Most seconds of processor time of one rendering, many times what its steps take."""

STEPS_A_CALL, NODES_A_STEP, SLOWNESS = 5, 100, 100

INVALID = (SyntaxError, RecursionError, MemoryError, OverflowError)
"""Errors of templates that Python cannot compile: too many nested blocks or brackets."""

FAILING = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError)
"""Errors of templates that fail while they are rendered, next to jinja2.TemplateError."""

_INSTANT_TESTS = frozenset(
    "defined undefined none boolean true false integer float number string mapping iterable sequence callable sameas"
    " escaped filter test".split()
)
_INSTANT_FILTERS = frozenset("length count default d".split())
"""Filters and tests that take as long for a large value as for a small one."""

_SHALLOW_FILTERS = frozenset("list first last reverse batch slice map select reject selectattr rejectattr attr items".split())
_SHALLOW_METHODS = frozenset("items keys values get".split())
"""Filters and methods that look at the items of a value, not into them."""

_SLOW = frozenset("striptags urlize wordwrap title xmlattr pprint indent center format".split())
"""Filters written in Python, which take a hundred times as long for a character as those in C."""


class TemplateLimitError(SecurityError):
    """A template that takes more than its budget, or draws at random."""


class _Template(Template):
    def new_context(self, *args: Any, **options: Any) -> Any:
        """Begin a rendering: its budget is whole."""
        self.environment.begin()  # type: ignore[attr-defined]
        return super().new_context(*args, **options)

    def render(self, *args: Any, **options: Any) -> str:
        """Render within the time, in the main thread also if no step is counted."""
        with _timed(self.environment):
            return super().render(*args, **options)


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox with a budget for each rendering. Errors are SecurityErrors."""

    template_class = _Template
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.begin()
        self.filters = _Counted(self, self.filters, _INSTANT_FILTERS, _SHALLOW_FILTERS)
        self.tests = _Counted(self, self.tests, _INSTANT_TESTS, frozenset())
        for name, filter_ in {"step": _step, "read": _read, "member": _member, "random": _random}.items():
            dict.__setitem__(self.filters, name, filter_)
        self.globals["lipsum"] = _random

    def begin(self) -> None:
        """Make the budget whole."""
        self.spent, self.looked, self.until = 0, 0, time.thread_time() + SECONDS

    def spend(self, steps: int) -> None:
        """Count steps. Raises TemplateLimitError."""
        self.spent += steps
        if self.spent > STEPS:
            raise TemplateLimitError(f"more than {STEPS:,} steps")
        if self.spent >= self.looked + 1_000:
            self.looked = self.spent
            self.require_time()

    def require_time(self, *_: Any) -> None:
        """Raise TemplateLimitError after the most processor time."""
        if time.thread_time() > self.until:
            raise TemplateLimitError(f"more than {SECONDS} seconds")

    def compile(self, *args: Any, **options: Any) -> Any:
        """Compile a template, which computes what is constant, within the limits of a rendering."""
        self.begin()
        with _timed(self):
            compiled = super().compile(*args, **options)
            self.require_time()  # a constant that took too long is left to the rendering, as any that fails
        return compiled

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parse a template, with steps in what repeats: loops, macros, blocks; and in operators."""
        parsed = _Charging().visit(super()._parse(source, name, filename))
        part: Any
        for part in parsed.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)):
            step = _stepping(nodes.Const(None), "step", part.lineno, _weight(part.body))
            part.body.insert(0, nodes.ExprStmt(step, lineno=part.lineno))
            if isinstance(part, nodes.For) and part.test is not None:
                part.test = _stepping(part.test, "step", part.lineno, 1)
        return parsed  # type: ignore[no-any-return]

    def call(__self, __context: Any, __obj: Any, *args: Any, **options: Any) -> Any:
        """Call a function or method: steps of its own, of its arguments and of its result."""
        __self.spend(STEPS_A_CALL)
        if isinstance(__obj, Macro | LoopContext):  # their bodies are charged
            return super().call(__context, __obj, *args, **options)
        subject = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # wrapped by the sandbox: str.format
        name = getattr(__obj, "__name__", "")
        _, args, options = __self.charge(name, subject, args, options, isinstance(subject, dict) and name in _SHALLOW_METHODS)
        return __self.checked(super().call(__context, __obj, *args, **options))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute a sum, product, power or formatted text whose size is within the limits."""
        if operator == "%" and isinstance(left, str):
            self.charge("%", left, right if isinstance(right, tuple) else (right,), {})
        else:
            _require_small(operator, left, right)
        return self.checked(super().call_binop(context, operator, left, right))

    def charge(self, name: str, subject: Any, args: Any, options: Any, shallow: bool = False) -> tuple[Any, Any, Any]:
        """Count a call before it is made, and return what to call it with.

        Raises TemplateLimitError.
        """
        given = (subject, *args, *options.values())
        weight = 1 if shallow or name not in _SLOW else SLOWNESS
        size = sum(map(characters, given) if shallow else map(self.measured, given))
        self.spend(1 + size * weight // CHARACTERS_A_STEP)
        if estimate(name, subject, (*args, *options.values()), size) > SIZE:
            raise TemplateLimitError(f"a text or list of more than {SIZE:,} by {name}")
        if shallow:
            return subject, args, options
        return self.metered(subject), tuple(map(self.metered, args)), {key: self.metered(one) for key, one in options.items()}

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return an item; a tuple as key is counted, since it is hashed and written in errors."""
        return super().getitem(obj, argument if isinstance(argument, str | int) else self.read(argument))

    def metered(self, value: Any) -> Any:
        """Return a value; an iterator as one that counts what it yields."""
        return map(self.read, value) if isinstance(value, Iterator) else value

    def read(self, value: Any) -> Any:
        """Return a value that is read whole, counted. Raises TemplateLimitError."""
        self.spend(1 + self.measured(value) // CHARACTERS_A_STEP)
        return value

    def measured(self, value: Any) -> int:
        """Return the characters of a value and of what is inside it, with some for each item.

        Raises TemplateLimitError for more than the budget.
        """
        if isinstance(value, str | bytes):
            return len(value)
        if value is None or isinstance(value, bool | int | float):
            return 0
        made, waiting = 0, [value]
        most = min(10 * SIZE, (STEPS - self.spent) * CHARACTERS_A_STEP)
        while waiting:
            one = waiting.pop()
            if isinstance(one, str | bytes):
                made += len(one)
            elif isinstance(one, Namespace):
                waiting.append(one._Namespace__attrs)
            elif isinstance(one, Collection):
                made += CHARACTERS_AN_ITEM * (1 + len(one))
                if made <= most and not isinstance(one, range):
                    waiting.extend(one)
                    waiting.extend(one.values() if isinstance(one, dict) else ())
            if made > most:
                raise TemplateLimitError("too many characters or items inside a value")
        return made

    def checked(self, value: Any) -> Any:
        """Return a result, counted. Raises TemplateLimitError."""
        if isinstance(value, str | bytes | list | tuple):
            if len(value) > SIZE:
                raise TemplateLimitError(f"a text or list of more than {SIZE:,}")
            self.spend(characters(value) // CHARACTERS_A_STEP)
        elif isinstance(value, int):
            _require_digits(value.bit_length())
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


class _Counted(dict[str, Any]):
    """Filters or tests that count what they are given; those added later too."""

    def __init__(
        self, environment: LimitedEnvironment, functions: Mapping[str, Any], instant: frozenset[str], shallow: frozenset[str]
    ) -> None:
        super().__init__()
        self.environment, self.instant, self.shallow = environment, instant, shallow
        for name, function in functions.items():
            self[name] = function

    def __setitem__(self, name: str, function: Callable[..., Any]) -> None:
        first = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)  # with Jinja's mark of filters that take a context first
        def counted(*values: Any, **options: Any) -> Any:
            passed, given = values[:first], values[first:]
            if name == "sum" and given and isinstance(given[0], Iterator):
                given = (list(given[0]), *given[1:])
            if name in self.instant:
                self.environment.spend(1)
            elif given:
                subject, arguments, options = self.environment.charge(name, given[0], given[1:], options, name in self.shallow)
                given = (subject, *arguments)
            return self.environment.checked(function(*passed, *given, **options))

        super().__setitem__(name, counted)


class _Charging(NodeTransformer):
    """Charge what is written, joined, compared or cut."""

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        node.nodes = [_reading(one) for one in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:
        self.generic_visit(node)
        node.nodes = [_reading(one) for one in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        node.expr = _reading(node.expr)
        for operand in node.ops:
            operand.expr = _reading(operand.expr, "member" if operand.op in ("in", "notin") else "read")
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        node.key = _reading(node.key)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _stepping(node, "step", node.lineno, 0) if isinstance(node.arg, nodes.Slice) else node


def _reading(value: Any, name: str = "read") -> Any:
    return value if isinstance(value, nodes.TemplateData | nodes.Const) else _stepping(value, name, value.lineno)


def _weight(body: list[nodes.Node]) -> int:
    """Return the steps of a body that is executed once."""
    parts = [part for one in body for part in (one, *one.find_all(nodes.Node))]
    text = sum(len(part.data) for part in parts if isinstance(part, nodes.TemplateData))
    return 1 + len(parts) // NODES_A_STEP + text // CHARACTERS_A_STEP


def _stepping(value: Any, name: str, line: int, *steps: int) -> nodes.Filter:
    """Return an expression that counts steps whenever it is computed."""
    return nodes.Filter(value, name, list(map(nodes.Const, steps)), [], None, None, lineno=line)


@pass_context
def _step(context: Any, value: Any, steps: int) -> Any:
    context.environment.spend(steps)
    return context.environment.checked(value)


@pass_context
def _read(context: Any, value: Any) -> Any:
    return context.environment.read(value)


@pass_context
def _member(context: Any, value: Any) -> Any:
    """Count what ``in`` reads: of a dictionary, nothing."""
    if isinstance(value, dict | range):
        context.environment.spend(1)
        return value
    return context.environment.metered(context.environment.read(value))


@contextmanager
def _timed(environment: Any) -> Iterator[None]:
    """Raise TemplateLimitError in the main thread when the time is over.

    The timer runs for the process, so that its handler asks for the time of the thread.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGVTALRM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGVTALRM, environment.require_time)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, min(SECONDS, 1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)


def _random(*_: Any, **__: Any) -> NoReturn:
    raise TemplateLimitError("a random draw, which gives another text each time")


def _require_small(operator: str, left: Any, right: Any) -> None:
    """Raise TemplateLimitError for a product or power that is too long to compute."""
    if isinstance(left, int) and isinstance(right, int):
        _require_digits(left.bit_length() * max(right, 0) if operator == "**" else left.bit_length() + right.bit_length())
    if operator != "*":
        return
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | bytes | list | tuple) and isinstance(times, int) and len(value) * times > SIZE:
            raise TemplateLimitError(f"a text or list of more than {SIZE:,} by {operator}")


def _require_digits(bits: int) -> None:
    if bits > DIGITS * 10 // 3:
        raise TemplateLimitError(f"an integer of more than {DIGITS:,} digits")


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
    for theirs, ours in ((environment.filters, made.filters), (environment.tests, made.tests)):
        for name, function in theirs.items():
            if name not in ours:
                ours[name] = function
    made.from_string = functools.lru_cache(maxsize=1024)(made.from_string)  # type: ignore[method-assign, assignment]
    return made


def reason(error: BaseException) -> str:
    """Return what a template fails of, as a noun phrase or the error's own words."""
    text = " ".join(str(error).split())
    names: Mapping[type[BaseException], str] = {RecursionError: "calls nested too deeply", MemoryError: "more memory than there is"}
    return next((name for cls, name in names.items() if isinstance(error, cls)), text or type(error).__name__)
