"""The helper that the binary starts for text prompts, against transformers."""

import json
import subprocess
import sys
import zipfile
from datetime import datetime

import pytest
from conftest import REPOSITORY
from test_token_bytes import sentencepiece_like, slow_tokenizer

from kvtool import chat_template
from kvtool.errors import UsageError
from kvtool.prompt_encoder import (
    PromptEncoder,
    TokenizersEncoder,
    TransformersEncoder,
    make_encoder,
)
from kvtool.tokenizer_source import pack_tokenizer

SCRIPT = REPOSITORY / "python" / "kvtool" / "encode_prompts.py"

TEXTS = [
    "Hello world",
    "  It's 12,345.67 or 2024-01-31; don't\tworry.\n\nNew line ",
    "Größe naïve 日本語 русский \U0001f600 e\u0301",
    "special <|im_end|> tokens </s> inside <s>",
    "x" * 5000,
]
CHATS = [
    [{"role": "user", "content": "What is 12 + 30?"}],
    [
        {"role": "system", "content": "Be brief.\n"},
        {"role": "user", "content": " Hi "},
        {"role": "assistant", "content": "Hello <b>&'\""},
        {"role": "user", "content": "日本語?"},
    ],
]


def run(model, document, code=None):
    """(exit status, answer) of the script; `document` is an object or raw bytes."""
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    start = [sys.executable, SCRIPT] if code is None else [sys.executable, "-c", code]
    done = subprocess.run([*start, "--model", str(model)], input=raw, capture_output=True)
    assert done.stderr == b"", done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("which", ["smollm2", "tiny"])
def test_equals_transformers(which, request, exported, tokenizer_of):
    model = request.getfixturevalue("smollm2") if which == "smollm2" else exported("llama")
    tokenizer = tokenizer_of(model)
    prompts = [{"text": text} for text in TEXTS] + [{"messages": chat} for chat in CHATS]
    status, answer = run(model.path, {"prompts": [*prompts, {"token_ids": [3, 2, 1]}]})
    assert status == 0
    *encoded, ids = answer["prompts"]
    assert ids == {"token_ids": [3, 2, 1], "text": None}
    for text, got in zip(TEXTS, encoded):
        assert got == {"token_ids": tokenizer(text)["input_ids"], "text": text}
    for chat, got in zip(CHATS, encoded[len(TEXTS) :]):
        arguments = dict(add_generation_prompt=True)
        assert got["text"] == tokenizer.apply_chat_template(chat, tokenize=False, **arguments)
        wanted = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True, **arguments)
        assert got["token_ids"] == wanted["input_ids"]


def test_smollm2_splits_text_as_its_vocabulary_was_made(smollm2):
    """What transformers loses of a GGUF tokenizer: end token and single digits."""
    status, answer = run(
        smollm2.path,
        {"prompts": [{"text": "2024"}, {"messages": [{"role": "user", "content": "Hi"}]}]},
    )
    assert status == 0
    digits, chat = (prompt["token_ids"] for prompt in answer["prompts"])
    assert len(digits) == 4
    assert chat[0] == 1 and 2 in chat  # <|im_start|>, <|im_end|>
    settings = json.loads(smollm2.extra_files["tokenizer_files.json"])
    assert settings["special_tokens"]["eos_token"] == "<|im_end|>"
    assert settings["encoder"] == "tokenizers"


def test_imports_neither_torch_nor_transformers(exported):
    code = (
        "import runpy, sys\n"
        "for name in ('torch', 'transformers', 'numpy'): sys.modules[name] = None\n"
        f"sys.argv[0] = {str(SCRIPT)!r}; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    status, answer = run(
        exported("llama").path, {"prompts": [{"text": "a"}, {"messages": CHATS[0]}]}, code
    )
    assert status == 0 and len(answer["prompts"]) == 2


@pytest.mark.parametrize(
    "prompt, part",
    [
        ({"text": "lone \ud800 surrogate"}, "lone surrogate at character 5"),
        ({"text": 5}, "'text' is not a string"),
        ({}, "exactly one of"),
        ({"text": "a", "token_ids": [1]}, "exactly one of"),
        ("a", "exactly one of"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "user"}]}, "'role' and 'content'"),
        ({"messages": [{"role": 1, "content": None}]}, "chat template"),
        ({"token_ids": []}, "at least one id"),
        ({"token_ids": [1, 384]}, "384 is not within 0..383"),
        ({"token_ids": [-1]}, "-1 is not within"),
        ({"token_ids": [True]}, "True is not within"),
    ],
)
def test_bad_prompt_is_named(exported, prompt, part):
    status, answer = run(exported("llama").path, {"prompts": [{"text": "fine"}, prompt]})
    assert status == 2
    assert answer["prompt_index"] == 1
    assert answer["error"].startswith("prompt 1: ") and part in answer["error"]


def test_empty_text_is_an_error_only_if_no_token_comes_out(exported, smollm2):
    status, answer = run(smollm2.path, {"prompts": [{"text": ""}]})
    assert status == 2 and "encodes to no token" in answer["error"]
    status, answer = run(exported("llama").path, {"prompts": [{"text": ""}]})
    assert status == 0 and answer["prompts"][0]["token_ids"] == [1]  # begin of sequence


@pytest.mark.parametrize("raw", [b"", b"[", b"[]", b'{"prompts": 1}', b"\xff\xfe", b"[" * 100000])
def test_bad_document(exported, raw):
    status, answer = run(exported("llama").path, raw)
    assert status == 2 and answer["prompt_index"] is None and answer["error"]


def test_huge_prompt(exported):
    text = "A recording made on one device is replayed. " * 50_000  # 2.2 MB
    status, answer = run(exported("llama").path, {"prompts": [{"text": text}]})
    assert status == 0 and len(answer["prompts"][0]["token_ids"]) > 200_000


def test_unreadable_models(exported, tmp_path):
    cut = tmp_path / "cut.pt"
    cut.write_bytes(exported("llama").path.read_bytes()[:5000])
    foreign = tmp_path / "foreign.pt"
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("foreign/extra/kvtool.json", "{}")
    for path in (tmp_path / "missing.pt", cut, foreign):
        status, answer = run(path, {"prompts": []})
        assert status == 5 and answer["error"]


def test_missing_package_is_an_environment_error(exported):
    code = (
        "import runpy, sys\n"
        "sys.modules['tokenizers'] = None\n"
        f"sys.argv[0] = {str(SCRIPT)!r}; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    status, answer = run(exported("llama").path, {"prompts": [{"text": "a"}]}, code)
    assert status == 5 and "tokenizers" in answer["error"]


def encoder_of(tokenizer, vocab_size):
    extra = pack_tokenizer(tokenizer, pytest.fail)
    extra["kvtool.json"] = json.dumps({"vocab_size": vocab_size}).encode()
    return PromptEncoder(extra), json.loads(extra["tokenizer_files.json"])


def test_slow_tokenizer_goes_through_transformers(tmp_path):
    tokenizer = slow_tokenizer(tmp_path / "slow")
    encoder, settings = encoder_of(tokenizer, 8)
    assert settings["encoder"] == "transformers" and settings["files"]
    text = "adapt react"
    assert encoder.encode({"text": text})["token_ids"] == tokenizer(text)["input_ids"]
    assert isinstance(encoder._encoder, TransformersEncoder)
    with pytest.raises(UsageError, match="no chat template"):
        encoder.encode({"messages": CHATS[0]})


def test_sentencepiece_like_tokenizer_stays_fast():
    tokenizer = sentencepiece_like()
    encoder, settings = encoder_of(tokenizer, len(tokenizer))
    assert settings["encoder"] == "tokenizers"
    assert encoder.encode({"text": "the cats"})["token_ids"] == tokenizer("the cats")["input_ids"]


def test_padding_and_truncation_in_the_tokenizer_file_are_ignored():
    tokenizer = sentencepiece_like()
    wanted = tokenizer("the cats")["input_ids"]
    tokenizer.backend_tokenizer.enable_truncation(max_length=2)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    encoder = TokenizersEncoder(tokenizer.backend_tokenizer.to_str().encode())
    assert encoder.encode("the cats", True) == wanted


def test_tokenizer_file_name_cannot_leave_its_folder(tmp_path):
    from kvtool.errors import EnvironmentFailure

    settings = {"encoder": "transformers", "files": ["../escaped"]}
    with pytest.raises(EnvironmentFailure, match="escaped"):
        make_encoder({"tokenizer/../escaped": b"x"}, settings)


TEMPLATE_CASES = {
    "blocks are trimmed": "{% if true %}\n  {{ bos_token }}\n{% endif %}\nend",
    "tojson keeps html": "{{ messages | tojson }} {{ {'a': 'é<'} | tojson(indent=2) }}",
    "loop controls": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "generation block": "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}",
    "prompt and absent tools": "{{ add_generation_prompt }} {{ tools is none }} {{ documents is none }}",
    "namespace": "{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = n.x + 1 %}{% endfor %}{{ n.x }}",
    "date": "{{ strftime_now('%Y-%m') }}",
}


@pytest.mark.parametrize("case", list(TEMPLATE_CASES))
def test_templates_render_like_transformers(case):
    tokenizer = sentencepiece_like()
    template = TEMPLATE_CASES[case]
    for chat in CHATS:
        wanted = tokenizer.apply_chat_template(
            chat, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        assert chat_template.render(template, chat, tokenizer.special_tokens_map) == wanted


def with_template(model, template, now=None, **settings):
    extra = dict(model.extra_files)
    changed = json.loads(extra["tokenizer_files.json"]) | {"chat_template": template} | settings
    extra["tokenizer_files.json"] = json.dumps(changed).encode()
    return PromptEncoder(extra, now)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 // 0 }}",
        "{{ messages[5].content }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for %}",
    ],
)
def test_templates_that_fail_are_bad_prompts(template, exported):
    encoder = with_template(exported("llama"), template)
    with pytest.raises(UsageError, match="chat template"):
        encoder.encode({"messages": CHATS[0]})


def test_clock_of_a_template_is_said_and_can_be_set(exported):
    template = "{% if messages|length > 1 %}{{ strftime_now('%H:%M:%S.%f') }}{% endif %}x{{ messages[-1].content }}"
    model = exported("llama")
    then = datetime(2020, 2, 3, 4, 5, 6, 7)
    one, two = CHATS[0], CHATS[1]
    encoder = with_template(model, template, then)
    assert "clock" not in encoder.encode({"messages": one})  # it does not come to the clock
    assert "clock" not in encoder.encode({"text": "strftime_now"})
    answer = encoder.encode({"messages": two})
    assert answer["text"].startswith("04:05:06.000007x")
    assert answer["clock"] == "2020-02-03T04:05:06.000007"
    # All chats of a run see one time, and what an answer says gives the same text again.
    present = with_template(model, template)
    first, second = (present.encode({"messages": two}) for _ in range(2))
    assert first == second
    again = with_template(model, template, datetime.fromisoformat(first["clock"]))
    assert again.encode({"messages": two}) == first


def test_clock_comes_in_through_the_document(exported):
    path = exported("llama").path
    prompts = {"prompts": [{"messages": CHATS[0]}], "clock": "2020-02-03T04:05:06"}
    status, answer = run(path, prompts)
    assert status == 0 and set(answer["prompts"][0]) == {"token_ids", "text"}
    for clock in (5, "yesterday"):
        status, answer = run(path, prompts | {"clock": clock})
        assert status == 2 and "'clock'" in answer["error"]


def test_lots_that_a_template_draws_are_always_the_same(exported):
    template = "{{ range(100000) | random }} {{ messages[0].content }}"
    texts = {with_template(exported("llama"), template).encode({"messages": CHATS[0]})["text"]
             for _ in range(3)}  # fmt: skip
    assert len(texts) == 1


@pytest.mark.parametrize(
    "template, found",
    [
        ("{{ strftime_now('%Y') }}", True),
        ("{% if strftime_now is defined %}{% set d = strftime_now('%d') %}{% endif %}", True),
        ("{{ messages[0].content }} strftime_now", False),
        ("{% for %}", False),
    ],
)
def test_template_that_may_read_the_clock_is_known(template, found):
    assert chat_template.may_read_clock(template) is found


BOS_TEMPLATE = "{{ bos_token }}{{ messages[0].content }}"


def test_two_begin_tokens_are_a_warning(exported):
    encoder = with_template(exported("llama"), BOS_TEMPLATE)
    assert "warnings" not in encoder.encode({"text": "a"})
    fine = encoder.encode({"messages": [{"role": "user", "content": "a"}]})
    assert fine["token_ids"][0] == 1 != fine["token_ids"][1] and "warnings" not in fine
    twice = encoder.encode({"text": fine["text"]})
    assert twice["token_ids"][:3] == [1, 1, fine["token_ids"][1]]
    assert "two begin-of-sequence tokens (id 1)" in twice["warnings"][0]
    assert "leave it out of the text" in twice["warnings"][0]
    chat = encoder.encode({"messages": [{"role": "user", "content": "<s>a"}]})
    assert "the chat template" in chat["warnings"][0]
    assert "warnings" not in encoder.encode({"token_ids": [1, 1]})  # as it was asked for


# Of three kinds: parts or text, parts alone, text alone in ways that print or refuse a list.
BOTH = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text | trim }}{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}"
)
PARTS_ALONE = (
    "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}{% if p['type'] == 'text' %}"
    "{{ p['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
TEXT_ALONE = [
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}",
    "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{% endfor %}",
    "{% for m in messages %}[{{ m.role }}]{{ m['content'] | trim }}{% endfor %}",
    "{% for m in messages %}{{ '[' ~ m.role ~ ']' ~ m.content.strip() }}{% endfor %}",
    "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}{{ p }}{% endfor %}{% endfor %}",
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% endif %}"
    "{% endfor %}",
]


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def chat(content):
    return {"messages": [{"role": "system", "content": "rule"}, {"role": "user", "content": content}]}


@pytest.mark.parametrize("template", [BOTH, PARTS_ALONE])
def test_parts_reach_a_template_that_takes_them(template, exported, tokenizer_of):
    messages = [{"role": "user", "content": parts("one", "two")}]
    answer = with_template(exported("llama"), template).encode({"messages": messages})
    assert answer["text"] == "[user]onetwo"
    assert answer["text"] == tokenizer_of(exported("llama")).apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True
    )


@pytest.mark.parametrize("template", TEXT_ALONE)
def test_template_that_takes_texts_gets_the_only_part(template, exported):
    encoder = with_template(exported("llama"), template)
    assert encoder.encode(chat(parts("one")))["text"] == "[system]rule[user]one"
    assert encoder.encode(chat("one"))["text"] == "[system]rule[user]one"
    with pytest.raises(UsageError, match="has 2 parts, but the chat template takes texts alone"):
        encoder.encode(chat(parts("one", "two")))


@pytest.mark.parametrize(
    "content, part",
    [
        ([], "an empty list"),
        ([{"type": "image", "url": "x"}], "is of type 'image'"),
        ([*parts("a"), {"type": "image_url", "image_url": {"url": "x"}}], r"\[1\] is of type 'image_url'"),
        (["a"], "not of the form"),
        ([{"text": "a"}], "not of the form"),
        ([{"type": "text", "text": 5}], "not of the form"),
    ],
)
def test_parts_that_are_no_text_are_refused(content, part, exported):
    with pytest.raises(UsageError, match=r"messages\[1\].content.*" + part):
        with_template(exported("llama"), BOTH).encode(chat(content))


def test_text_that_a_template_leaves_out_is_refused(exported):
    encoder = with_template(exported("llama"), PARTS_ALONE)
    with pytest.raises(UsageError, match="leaves out the content of messages.1.; it takes content in parts"):
        encoder.encode(chat("hello"))
    lost = encoder.encode(chat(parts("hello")))
    assert lost["text"] == "[system][user]hello"
    assert lost["warnings"][0].startswith("the chat template leaves out the content of messages[0]")
    silent = with_template(exported("llama"), "{{ messages[0].role }}")
    with pytest.raises(UsageError, match=r"leaves out the content of messages.1.$"):
        silent.encode(chat("hello"))
    as_json = with_template(exported("llama"), "{{ messages | tojson }}")
    assert json.loads(as_json.encode(chat('a "b"\n'))["text"])[1]["content"] == 'a "b"\n'
