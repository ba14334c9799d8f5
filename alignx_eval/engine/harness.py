"""The LM evaluation harness over an open checkpoint, quiet and offline."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from alignx_eval.assets import asset_folder
from alignx_eval.engine import decoding_cache
from alignx_eval.engine.batches import context_length, start_token
from alignx_eval.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignx_eval.checkpoint import Checkpoint

EXAMPLES_SEED = 1234  # lm-eval's own default, so that numbers agree with its command line
# Float32 logits of one lm-eval batch stay under 256 MB for sentences of 64 tokens.
LOGITS_AT_ONCE = 2**26


def lm_eval_model(checkpoint: Checkpoint, loaded: Mapping[str, Any]) -> Any:
    from lm_eval.models.huggingface import HFLM

    class Model(HFLM):
        """lm-eval's model, which may have no end token: a generation then ends at the task's own stops or at its
        length."""

        def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> Any:
            return None if tokens is None else super().tok_decode(tokens, skip_special_tokens=skip_special_tokens)

    tokenizer = copy.deepcopy(checkpoint.tokenizer)  # lm-eval changes padding
    start, _ = start_token(tokenizer)
    prefix = None
    # lm-eval needs a token before an empty prompt; a line break is what stands between texts where nothing else does.
    if start is None:
        prefix = next(
            ids[-1] for text in ("\n", ".") if (ids := tokenizer(text, add_special_tokens=False)["input_ids"])
        )
    vocabulary = checkpoint.model.get_output_embeddings().weight.shape[0]
    size = max(1, min(64, LOGITS_AT_ONCE // (64 * vocabulary)))
    # `generate` pads on the left, which needs a token for padding, and a model that keeps its state clean of it.
    if any(task.OUTPUT_TYPE == "generate_until" for task in loaded.values()):
        paddings = (
            tokenizer.pad_token_id,
            tokenizer.unk_token_id,
            tokenizer.eos_token_id,
        )  # what lm-eval takes, in this order
        if all(token is None for token in paddings) or not decoding_cache.find_way(checkpoint.model).padded:
            size = 1
    return Model(
        pretrained=checkpoint.model,
        backend="causal",  # the decoder of an encoder-decoder family too, which lm-eval would run as one
        tokenizer=tokenizer,
        batch_size=size,
        max_length=context_length(checkpoint.model),
        prefix_token_id=prefix,
    )


def _prepare(task: Any) -> None:
    """What `simple_evaluate` does to a task besides seeding the global generators and running `pip list`: zero examples
    in the prompt unless the task says otherwise, and lm-eval's seed for choosing them."""
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=EXAMPLES_SEED)


def run_tasks(model: Any, loaded: dict[str, Any], limit: int) -> dict[str, Any]:
    """lm-eval's results and samples."""
    from lm_eval import evaluate

    for task in loaded.values():
        _prepare(task)
    return evaluate(lm=model, task_dict={"tasks": loaded}, limit=limit, log_samples=True, bootstrap_iters=0)


def cut_documents(model: Any, loaded: dict[str, Any], limit: int) -> dict[str, int]:
    """By task, how many of its first `limit` documents lm-eval will cut on the left; tasks without any are left out.

    Raises InputError where not even an answer has room in the model's context.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    counts = {}
    for name, task in loaded.items():
        _prepare(task)
        task.build_all_requests(limit=limit)
        cut = set()
        for request in task.instances:
            answer = 0
            if request.request_type == "loglikelihood":
                context, continuation = request.args
                pair = model._encode_pair(context, continuation) if context else ([0], model.tok_encode(continuation))
                answer, room = len(pair[1]), model.max_length
                length = len(pair[0]) + answer - 1  # the last token of the answer is scored and never read
            elif request.request_type == "generate_until":
                context, options = request.args
                answer = normalize_gen_kwargs(dict(options), model.max_gen_toks)["max_gen_toks"]
                room = model.max_length - 1  # an answer that fills the context leaves none for the prompt
                length = len(model.tok_encode(context)) + answer - 1
            else:  # rolling windows score everything
                continue
            if answer > room:
                raise InputError(
                    f"task {name} needs room for an answer of {answer} tokens, and the context of this checkpoint is "
                    f"{model.max_length} "
                    "tokens: leave the task out"
                )
            if length > room:
                cut.add(request.doc_id)
        if cut:
            counts[name] = len(cut)
    return counts


def cut_text(count: int, report: dict[str, Any], task: str, context: int) -> str:
    documents = len({sample["doc_id"] for sample in report["samples"][task]})
    return (
        f"{count} of {documents} documents are longer than the model's context of {context} tokens and lost their "
        "beginning, so the score "
        "is that of another text and decides nothing"
    )


@cache
def task_manager(lm_evals_own: bool) -> Any:
    """Index of our tasks, with lm-eval's own some ten thousand definitions where they are needed (they take seconds to
    read)."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(asset_folder("tasks")), include_defaults=lm_evals_own)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """lm-eval and `datasets` without their log lines, warnings and progress bars, which would run into ours."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    # lm-eval asks git for a commit, and git's complaint outside of a repository goes to file descriptor 2, not to
    # sys.stderr.
    descriptor = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(descriptor, 2)
        os.close(descriptor)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def lm_eval_version() -> str:
    from importlib.metadata import version

    return version("lm_eval")


def starts(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What stands at the start of a prompt when lm-eval makes it ("bos", "eos", another special token, "none"), and of
    an empty prompt ("bos", "eos", "line break")."""
    first = next(iter(tokenizer("a")["input_ids"]), None)
    start = "none"
    if first in tokenizer.all_special_ids:
        roles = {tokenizer.eos_token_id: "eos", tokenizer.bos_token_id: "bos"}
        start = roles.get(first) or str(tokenizer.convert_ids_to_tokens(first))
    empty = start_token(tokenizer)[1]
    return start, "line break" if empty == "none" else empty
