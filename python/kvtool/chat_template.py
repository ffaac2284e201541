"""Renders chat templates the way transformers does, without importing it.

The environment (sandbox, trimming, extensions, helper functions) is the one that
chat templates are written for; tests compare the result with
`apply_chat_template`.
"""

from __future__ import annotations

import functools
import json
import random
from datetime import datetime

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

_CLOCK = "strftime_now"


class _GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks an assistant's text for training;
    here it is only text."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


class Clock:
    """The time that templates see: the same for all of one run."""

    def __init__(self, now: datetime | None = None):
        self.now = now or datetime.now()
        self.was_read = False

    def strftime(self, form: str) -> str:
        self.was_read = True
        return self.now.strftime(form)


def render(template: str, messages: list[dict], variables: dict, clock: Clock | None = None) -> str:
    """The text of `messages` with the header of the assistant's answer at its end.

    `variables` are the template's special tokens (bos_token, ...). Raises
    jinja2.TemplateError when the template is wrong or refuses the messages.
    """
    # jinja can draw lots: equal messages have to give equal prompts all the same.
    random.seed(0)
    return _compiled(template).render(
        {_CLOCK: (clock or Clock()).strftime},
        messages=messages,
        tools=None,
        documents=None,
        add_generation_prompt=True,
        **variables,
    )


@functools.lru_cache(maxsize=4)
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


def may_read_clock(template: str) -> bool:
    """Whether the template names the clock; it need not read it for every chat."""
    try:
        parsed = _environment().parse(template)
    except jinja2.TemplateError:
        return False
    return _CLOCK in meta.find_undeclared_variables(parsed)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment


def _raise(message: str):
    raise jinja2.TemplateError(message)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    # jinja's own filter escapes characters of HTML, which would change the prompt.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
