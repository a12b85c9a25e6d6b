"""Templates end, stay small, and neither draw nor reach Python."""

from __future__ import annotations

import re
import signal
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import jinja2
import pytest
from jinja2 import StrictUndefined
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from harness.core import sandbox
from harness.core.sandbox import FAILING, INVALID, LimitedEnvironment, TemplateLimitError, limited

LIMITED = LimitedEnvironment(undefined=StrictUndefined)

DOUBLED = "{% set all = namespace(x='ab') %}{% for i in range(60) %}{% set all.x = CHANGE %}{% endfor %}{{ all.x | length }}"

ENDLESS = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops whose condition is false": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "a recursive loop": "{% for a in [1] recursive %}{{ loop(range(99)) if loop.depth < 9 }}{% endfor %}",
    "macros that call macros": "".join(
        f"{{% macro m{i}() %}}{f'{{{{ m{i - 1}() }}}}' * 20 if i else 'a'}{{% endmacro %}}" for i in range(9)
    )
    + "{{ m8() }}",
    "calls of a long body": "{% macro m() %}" + "{% set x = 1 %}" * 5000 + "{% endmacro %}{% for a in range(99999) %}{{ m() }}{% endfor %}",
    "filters of a long text in a loop": "{% set x = 'ab' * 4000000 %}{% for a in range(99999) %}{% set y = x | upper %}{% endfor %}",
}

NESTED = "{% set ns = namespace(a=[1], b=[1]) %}{% for x in range(40) %}{% set ns.a, ns.b = [ns.a, ns.a], [ns.b, ns.b] %}{% endfor %}"

INSIDE = [
    "{{ ns.a }}",
    "{{ ns }}",
    "{{ ns.a | string }}",
    "{{ ns.a | tojson }}",
    "{{ ns.a | pprint }}",
    "{{ ns.a ~ 'x' }}",
    "{{ [ns.a] | join }}",
    "{{ [ns.a] | map('string') | list }}",
    "{{ [ns.a, ns.a] | map('list') | join }}",
    "{% for x in [ns.a, ns.a] %}{{ loop | join }}{% endfor %}",
    "{{ '%s' % ns.a }}",
    "{{ '{}'.format(ns.a) }}",
    "{{ '{0.a}'.format(ns) }}",
    "{{ {'a': ns.a}.items() | join }}",
    "{{ ns.a == ns.b }}",
    "{{ ns.a in [ns.b] }}",
    "{{ ns.a is eq(ns.b) }}",
    "{{ [ns.a] | select('in', [ns.b]) | list | length }}",
    "{{ ns.a.count(ns.b[0]) }}",
    "{{ ns[ns.a] }}",
    "{{ {(ns.a,): 1} }}",
]
"""Uses of lists of 2^40 items, made in 40 steps."""

REPEATED = [
    "'b' in s",
    "-1 in l",
    "s == t",
    "s < t",
    "s[::-1]",
    "l[1:]",
    "s is eq(t)",
    "s is upper",
    "s.count('b')",
    "['b'] | select('in', s) | list",
    "s | striptags",
]
"""Expressions that take long once, of texts and lists that are within the limits."""

LARGE = {
    "a sum of lists": "{{ ([[0] * 100000] * 1000) | sum(start=[]) }}",
    "a sum of many lists": "{{ ([[0]] * 900000) | sum(start=[]) | length }}",
    "a sum of lists that are mapped": "{{ ([[0] * 100000] * 1000) | map('list') | sum(start=[]) | length }}",
    "a remainder": "{{ ('f' * 9000000) | int(0, 16) % ('e' * 4000000) | int(0, 16) }}",
    "a quotient": "{{ ('f' * 9000000) | int(0, 16) // ('e' * 4000000) | int(0, 16) }}",
    "a power of ten": "{{ 1 | round(10**8, 'ceil') }}",
    "a text of tags": "{{ ('<>' * 5000000) | striptags }}",
    "a list of long texts": "{{ ['a' * 9000000] * 100 }}",
    "a product": "{{ 'a' * 10**11 }}",
    "a product, the other way": "{{ 10**11 * 'a' }}",
    "a list": "{{ ([0] * 10**9) | length }}",
    "a number": "{{ 9 ** (9 ** 9) }}",
    "a number that is squared": "{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "doubled by ~": DOUBLED.replace("CHANGE", "all.x ~ all.x"),
    "doubled by +": DOUBLED.replace("CHANGE", "all.x + all.x"),
    "doubled by join": DOUBLED.replace("CHANGE", "[all.x, all.x] | join"),
    "doubled by format": DOUBLED.replace("CHANGE", "'%s%s' % (all.x, all.x)"),
    "doubled by replace": DOUBLED.replace("CHANGE", "all.x.replace('a', 'aa')"),
    "written in a loop": "{% set x = 'ab' * 1000000 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
    "written in a macro": "{% macro m() %}{% for i in range(99999) %}{{ 'ab' * 9999 }}{% endfor %}{% endmacro %}{{ m() }}",
    "centred": "{{ 'a' | center(10**11) }}",
    "justified": "{{ 'a'.ljust(10**11) }}",
    "indented": "{{ ('a\n' * 9999) | indent(10**6) }}",
    "sliced": "{{ [1] | slice(10**10) | list | length }}",
    "padded by %": "{{ '%99999999999d' % 1 }}",
    "padded by a width that is given": "{{ '%*d' % (10**10, 1) }}",
    "padded by format": "{{ '{:>99999999999}'.format(1) }}",
    "padded by a nested width": "{{ '{:>{}}'.format(1, 10**10) }}",
    "padded by the filter format": "{{ '%99999999999d' | format(1) }}",
    "joined by a long text": "{{ range(99999) | join('a' * 9999) }}",
    "joined to a long text": "{{ ('a' * 9999).join(['b'] * 99999) }}",
    "bytes": "{{ (1).to_bytes(10**11, 'big') | length }}",
}

REACHING = {
    "globals": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "the filter attr": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "by format": "{{ '{0.__class__.__init__}'.format(cycler) }}",
    "by the filter map": "{{ ['']|map(attribute='__class__')|join }}",
    "a changed list": "{{ [].append(1) }}",
}

RANDOM = {"a filter": "{{ [1, 2] | random }}", "words": "{{ lipsum() }}", "by the filter map": "{{ [[1, 2]] | map('random') | list }}"}


@pytest.mark.parametrize("kind", [*ENDLESS, *LARGE, *RANDOM])
def test_what_would_not_end_or_is_too_large_or_drawn_is_stopped(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time it is rendered, at 20,000 steps a second or more, and within 100 megabytes."""
    monkeypatch.setattr(sandbox, "STEPS", 20_000)
    template, begun = LIMITED.from_string({**ENDLESS, **LARGE, **RANDOM}[kind]), time.process_time()
    tracemalloc.start()
    for _ in range(2):
        with pytest.raises(TemplateLimitError):
            template.render()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - begun < 2
    assert peak < 100e6


@pytest.mark.parametrize("use", INSIDE)
def test_what_is_inside_a_value_is_counted_before_it_is_read(use: str) -> None:
    """By writing, joining, comparing and looking up, as filter, test, operator and call."""
    template, begun = LIMITED.from_string(NESTED + use), time.process_time()
    with pytest.raises(TemplateLimitError):
        template.render()
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("expression", REPEATED)
def test_operators_tests_and_methods_in_a_loop_are_counted(expression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As filters are: of long texts and lists a few hundred a rendering."""
    monkeypatch.setattr(sandbox, "STEPS", 100_000)
    values = {"s": "a" * 1_000_000, "t": "a" * 999_999 + "b", "l": [0] * 50_000}
    template = LIMITED.from_string(
        "{% for x in range(99999) %}{% if EXPRESSION %}{% endif %}{% endfor %}".replace("EXPRESSION", expression)
    )
    begun = time.process_time()
    with pytest.raises(TemplateLimitError):
        template.render(values)
    assert time.process_time() - begun < 5


def _slowly() -> str:
    """Take long without a step."""
    while True:
        pass


@pytest.mark.parametrize(
    "text", ["{{ text | regex_replace('(a+)+$', '') }}", "{{ 'EVIL' | regex_replace('(a+)+$', '') }}", "{{ slowly() }}"]
)
def test_what_is_not_counted_ends_with_the_time(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regular expressions too, while a constant is compiled too; the timer is removed."""
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)
    plain, evil = jinja2.Environment(), "a" * 40 + "b"
    plain.filters["regex_replace"] = lambda text, pattern, new: re.sub(pattern, new, text)
    with pytest.raises(TemplateLimitError, match=r"more than 0\.2 seconds"):
        limited(plain).from_string(text.replace("EVIL", evil)).render(text=evil, slowly=_slowly)
    assert signal.getsignal(signal.SIGVTALRM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_in_other_threads_steps_look_at_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no signal arrives."""
    monkeypatch.setattr(sandbox, "SECONDS", 0.01)
    template = LIMITED.from_string("{% for a in range(99999) %}{% set b = a %}{% endfor %}")
    with ThreadPoolExecutor(1) as pool, pytest.raises(TemplateLimitError, match="seconds"):
        pool.submit(template.render).result()


@pytest.mark.parametrize("kind", REACHING)
def test_templates_do_not_reach_python(kind: str) -> None:
    """Nor do they change what they are given."""
    with pytest.raises((SecurityError, jinja2.UndefinedError)):
        LIMITED.from_string(REACHING[kind]).render()


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"{{% for a{i} in [1] %}}" for i in range(25)) + "{% endfor %}" * 25,
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{{ " + "not " * 5000 + "1 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% if 1 %}" * 500 + "{% endif %}" * 500,
    ],
)
def test_errors_of_python_on_nested_templates_are_known(text: str) -> None:
    """They are those that readers of templates turn into one line."""
    with pytest.raises((*INVALID, *FAILING)):
        LIMITED.from_string(text).render()


ORDINARY = [
    "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ m.role | upper ~ ': ' ~ m.content | trim }}{% endfor %}",
    "{% for m in messages if m.role != 'user' %}{{ m.content }}{% else %}none{% endfor %}",
    "{% for key, value in messages[0].items() %}{{ key }}={{ value }};{% endfor %}",
    "{% macro shown(m, end='.') %}{{ m.content }}{{ end }}{% endmacro %}{{ shown(messages[0]) }}"
    "{% macro framed(m) %}<{{ caller() }}>{% endmacro %}{% call framed(messages[1]) %}{{ shown(messages[1], end='!') }}{% endcall %}",
    "{% for n in [[1, [2, 3]]] recursive %}{{ loop(n) if n is iterable else n }}{% endfor %}",
    "{% set all = namespace(n=0) %}{% for m in messages %}{% set all.n = all.n + m.content | length %}{% endfor %}{{ all.n }}",
    "{{ messages | map(attribute='content') | join(' | ') }}{{ messages | tojson(indent=2) }}",
    "{{ '%s: %05.1f' % ('a', 2.25) }}{{ '{:>8}|{}'.format('a', 12345678901) }}{{ 'a' | center(9) }}{{ 2 ** 10 * 3 % 7 }}",
    "{{ 'a' * 3 + 'b' }}{{ ([1] * 2 + [3]) | sum }}{{ 'x'.replace('x', 'yy') }}{{ ', '.join(['a', 'b']) }}{{ 10 ** 12 }}",
    "{{ messages[::-1][0].role }}{{ messages[1:] | length }}{{ 'user' in messages[1].role }}{{ 'role' in messages[0] }}{{ 1 in [1, 2] }}"
    "{{ 3 < 4 <= 5 }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ 7 // 2 - 1 }}{{ 7 / 2 }}{{ -7 % 4 }}"
    "{{ [[1], [2]] | sum(start=[]) }}{{ '<b>a</b>' | striptags }}{{ {1: 2}[1] }}{{ (1, 2) in {(1, 2): 3} }}{{ 2 in [1, 2] | map('abs') }}"
    "{{ messages | groupby('role') | map('first') | join('/') }}{{ 2.5 | round(1) }}{{ [3, 1] | map('string') | sort | first }}",
    "{% filter upper %}{% for i in range(3) %}{{ i }}a{% endfor %}{% endfilter %}{% block b %}in a block{% endblock %}{{ self.b() }}",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_other_templates_write_what_they_do_without_limits(text: str) -> None:
    """Loops, macros, filters, blocks and formats, in Jinja2's own sandbox."""
    messages = [{"role": role, "content": f" {role} says\n" * 50} for role in ("system", "user", "assistant")]
    expected = ImmutableSandboxedEnvironment(undefined=StrictUndefined).from_string(text).render(messages=messages)
    assert LIMITED.from_string(text).render(messages=messages) == expected


def test_a_long_conversation_and_a_long_text_are_within_the_limits() -> None:
    """Ten thousand messages, a megabyte of text."""
    messages = [{"role": "user", "content": "a" * 100}] * 10_000
    template = LIMITED.from_string("{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>\n{% endfor %}")
    assert len(template.render(messages=messages)) == 10_000 * 110
    text = LIMITED.from_string("{{ text | trim | replace('b', 'c') ~ '.' }}").render(text="ab" * 500_000)
    assert text == "ac" * 500_000 + "."


def test_a_limited_copy_keeps_settings_and_filters_and_compiles_once() -> None:
    """As lm-eval's environment has them."""
    plain = jinja2.Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    plain.filters["twice"] = lambda text: text * 2
    made = limited(plain)
    assert made.from_string("{{ 'a' | twice }}\n").render() == "aa\n"
    assert made.from_string("{{ x }}") is made.from_string("{{ x }}")
    with pytest.raises(jinja2.UndefinedError):
        made.from_string("{{ x }}").render()
    with pytest.raises(TemplateLimitError):
        made.from_string(ENDLESS["loops in loops"]).render()
