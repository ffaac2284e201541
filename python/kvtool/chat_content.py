"""The content of chat messages: a text, or a list of parts, and what a template makes of it.

A template that takes texts alone prints a list as Python would, or leaves it out, and one that
takes parts alone leaves a text out; neither says so. Here both are errors.
"""

from __future__ import annotations

import copy

import jinja2

from kvtool.chat_template import Clock, render
from kvtool.errors import UsageError

# What a template may raise for messages that it was not written for.
TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)

_TELLING_LENGTH = 16
_PART_FORM = '{"type": "text", "text": "..."}'


class _PrintedWhole(jinja2.TemplateError):
    pass


class _Printed:
    """Mixed into what no template that takes parts turns into text as a whole."""

    def __str__(self):
        raise _PrintedWhole("content in parts is printed as a whole")

    __repr__ = __str__

    def __format__(self, _spec):
        return str(self)


class _Parts(_Printed, list):
    pass


class _Part(_Printed, dict):
    pass


class ChatRenderer:
    """Renders the chats of one template."""

    def __init__(self, template: str, variables: dict, clock: Clock):
        self._template = template
        self._variables = variables
        self._clock = clock
        self.warnings: list[str] = []  # of the last text

    def text_of(self, messages: list[dict]) -> str:
        """The text of `messages`, whose contents may be lists of parts.

        Raises UsageError for parts that are no text, for several parts where the template
        takes texts alone, and for a last text of the user that the template would leave out;
        TEMPLATE_ERRORS where the template refuses the messages.
        """
        self.warnings = []
        in_parts = [i for i, message in enumerate(messages) if isinstance(message["content"], list)]
        for index in in_parts:
            _check_parts(messages[index]["content"], index)
        if in_parts and not self._takes_parts(messages, in_parts):
            messages = _as_texts(messages, in_parts)
        text = self._render(messages)
        self._require_contents(messages, text)
        return text

    def _render(self, messages: list[dict]) -> str:
        return render(self._template, messages, self._variables, self._clock)

    def _takes_parts(self, messages: list[dict], indices: list[int]) -> bool:
        """Whether every part's text comes out, and no list or part as a whole."""
        probes = []
        marked = copy.deepcopy(messages)
        for index in indices:
            parts = _Parts(_Part(part) for part in marked[index]["content"])
            for part in parts:
                probes.append(_probe(len(probes)))
                part["text"] = probes[-1]
            marked[index]["content"] = parts
        try:
            text = self._render(marked)
        except TEMPLATE_ERRORS:
            return False
        return all(probe in text for probe in probes)

    def _require_contents(self, messages: list[dict], text: str) -> None:
        """What system and user say has to come out; an assistant's thoughts need not."""
        users = [i for i, message in enumerate(messages) if message["role"] == "user"]
        for index, message in enumerate(messages):
            if message["role"] not in ("system", "user"):
                continue
            if not self._leaves_out(messages, index, text):
                continue
            said = f"the chat template leaves out the content of messages[{index}]"
            in_parts = [{"type": "text", "text": message["content"]}]
            if self._takes_parts(_with_content(messages, index, in_parts), [index]):
                said += f"; it takes content in parts: [{_PART_FORM}]"
            if index in users[-1:]:
                raise UsageError(said)
            self.warnings.append(said)

    def _leaves_out(self, messages: list[dict], index: int, text: str) -> bool:
        content = messages[index]["content"]
        if not isinstance(content, str):
            return False
        if len(content.strip()) >= _TELLING_LENGTH and content.strip() in text:
            return False
        # A short text may stand there by chance; a long one in another form, such as JSON.
        try:
            return _probe(0) not in self._render(_with_content(messages, index, _probe(0)))
        except TEMPLATE_ERRORS:
            return False


def _with_content(messages: list[dict], index: int, content) -> list[dict]:
    changed = copy.deepcopy(messages)
    changed[index]["content"] = content
    return changed


def _probe(number: int) -> str:
    return f"kvtoolpart{number}kvtool"


def _check_parts(parts: list, index: int) -> None:
    where = f"messages[{index}].content"
    if not parts:
        raise UsageError(f"{where} is an empty list: give a text, or [{_PART_FORM}]")
    for number, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise UsageError(
                f"{where}[{number}] is of type '{kind}': kvtool runs the text part of a model, a "
                f"part has to be {_PART_FORM}"
            )
        if kind is None or not isinstance(part.get("text"), str):
            raise UsageError(f"{where}[{number}] is not of the form {_PART_FORM}")


def _as_texts(messages: list[dict], indices: list[int]) -> list[dict]:
    changed = [dict(message) for message in messages]
    for index in indices:
        parts = messages[index]["content"]
        if len(parts) > 1:
            raise UsageError(
                f"messages[{index}].content has {len(parts)} parts, but the chat template takes texts "
                "alone, and how to join them is not said: give one text"
            )
        changed[index]["content"] = parts[0]["text"]
    return changed
