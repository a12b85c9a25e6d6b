"""Templates end, stay small, and neither draw nor reach Python."""

from __future__ import annotations

import time
import tracemalloc

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

LARGE = {
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
