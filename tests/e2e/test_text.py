"""What goes in and out as text: templates that read the clock, begins of a sequence, ids, names."""

import json
import shutil

import pytest
import torch
from kvtool import attention_op  # noqa: F401, for models that are loaded here

CHATS = [{"messages": [{"role": "user", "content": content}]}
         for content in ("one", [{"type": "text", "text": "two"}], "three")]
RUN = ("--max-new-tokens", 4, "--device", "cpu", "--ignore-eos")


@pytest.fixture
def with_template(exported, tmp_path):
    """template -> the tiny model's file with this chat template"""

    def make(template):
        model = exported("llama")
        extra = dict(model.extra_files)
        settings = json.loads(extra["tokenizer_files.json"]) | {"chat_template": template}
        extra["tokenizer_files.json"] = json.dumps(settings).encode()
        torch.jit.save(model.load(), str(tmp_path / "model.pt"), _extra_files=extra)
        return tmp_path / "model.pt"

    return make


def prompts_of(kvtool, folder):
    return {path.name: json.loads(kvtool.ok("info", path, "--json"))["recordings"][0]["prompt_text"]
            for path in sorted(folder.rglob("*.kvc"))}  # fmt: skip


def test_resumed_chats_are_those_that_were_recorded(with_template, kvtool):
    model = with_template("{{ strftime_now('%H:%M:%S.%f') }} {{ messages[0].content if messages[0]"
                          ".content is string else messages[0].content[0].text }}")
    save = ("save", "--model", model, "--prompts", kvtool.prompts(CHATS), "--out", "rec", *RUN)
    first = kvtool.run(*save)
    assert first.returncode == 0 and "the chat template reads the clock" in first.stderr
    recorded = prompts_of(kvtool, kvtool.directory / "rec")
    assert [text.split(" ", 1)[1] for text in recorded.values()] == ["one", "two", "three"]
    assert len({text.split(" ", 1)[0] for text in recorded.values()}) == 1  # one time for all
    (kvtool.directory / "rec/CPU/kvtool_tiny_llama/batch1_input1.kvc").unlink()
    resumed = kvtool.run(*save, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "2 of 3 recordings" in resumed.stderr
    assert prompts_of(kvtool, kvtool.directory / "rec") == recorded


def test_two_begins_of_a_sequence_are_told(with_template, kvtool):
    model = with_template("{{ bos_token }}{{ messages[0].content }}")
    entries = [{"text": "<s>hi"}, {"messages": [{"role": "user", "content": "hi"}]}, {"text": "hi"}]
    done = kvtool.run("generate", "--model", model, "--prompts", kvtool.prompts(entries), *RUN)
    assert done.returncode == 0
    told = [line for line in done.stderr.splitlines() if "begin-of-sequence" in line]
    assert len(told) == 1 and "prompts.jsonl line 1: begins with two" in told[0]


def test_another_ids_file_is_not_run(exported, kvtool):
    (kvtool.directory / "models").mkdir()
    shutil.copy(exported("llama").path, kvtool.directory / "models" / "kvtool_tiny_llama.pt")
    generate = ("generate", "--prompt", "hi", *RUN, "--model")
    assert kvtool.run(*generate, "kvtool/Tiny-llama").returncode == 0
    refused = kvtool.run(*generate, "KVTOOL/tiny.llama")
    assert refused.returncode == 2
    assert "'KVTOOL/tiny.llama'" in refused.stderr and "'kvtool/Tiny-llama'" in refused.stderr


def test_models_with_names_of_one_folder_are_refused_before_the_first_token(exported, kvtool):
    paths = [exported("llama").path, exported("llama", seed=1).path]
    done = kvtool.run("save", "--model", paths[0], "--model", paths[1], "--prompt", "hi",
                      "--out", "rec", *RUN)
    assert done.returncode == 2 and "would be recorded in the same folder" in done.stderr
    assert "Prompt:" not in done.stdout and not (kvtool.directory / "rec").exists()
