"""The programs that a fault campaign disturbs, as their command lines are called, and one with
precautions left out.

A program has one folder for what it reads and writes; it is small, offline and ends in a second or two.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

from geolora_ref.support.files import digest, locked, read_json, read_regular, seal, write_atomically, write_json
from verification.claim import Case, CaseResult, Claim, Control, Plan
from verification.trust.random_kills import ratios, units

__all__ = ["PRECAUTIONS", "Program", "planted", "preload", "programs"]

CLOCK = re.compile(rb'"(median_seconds_per_step|sha256)": [^\n]*')
WORDS = ("good", "fine", "bad", "poor", "a", "film", "plot", "was")
TUNING = "--metric accuracy --epochs 2 --batch-size 6 --dev-fraction 0.25 --rank 2 --max-length 8 --checkpoint-every 1"
STEPS = 6
PRECAUTIONS = {
    "written in place": "lost",
    "not synced": "lost",
    "not locked": "lost",
    "not sealed": "damaged",
    "pipes opened": "hang",
    "errors raised": "traceback",
}
"""What :func:`planted` can leave out, and the verdict that must come of it."""


@dataclass(frozen=True)
class Program:
    """A command that reads and writes one folder.

    Attributes
    ----------
    run : runs the command in this folder and returns its exit status; starts anew if the second
        argument is true.
    prepare : makes the files that the command reads, in an empty folder.
    result : the results, from the folder and the printed text; they must be those of an undisturbed
        run.
    damaged : patterns of the files in which bits are flipped, or which are cut off.
    names : the files in whose place something else is put.
    kept : finished work that must not be lost.
    resumes : whether an interrupted run goes on in the middle.
    writes, locks : whether it writes files, and has its folder to itself.
    share : the share of the faults that are drawn; less for a slow program.
    """

    run: Callable[[Path, bool], int]
    prepare: Callable[[Path], object]
    result: Callable[[Path, str], Any]
    damaged: tuple[str, ...]
    names: tuple[str, ...]
    kept: Callable[[Path], Collection[Any]] = lambda folder: ()
    resumes: bool = False
    writes: bool = True
    locks: bool = True
    share: float = 1.0


def programs() -> dict[str, Program]:
    """All programs by name."""
    inputs = ("model/config.json", "model/model.safetensors", "model/tokenizer.json")
    written = ("checkpoint.safetensors", "adapter.safetensors", "results.json", "ranks.png", "lora", ".lock")
    tuned = (_contents, ("checkpoint.safetensors", "model/model.safetensors"), (*written, *inputs), _steps, True)
    journal, report = ("journal-*.jsonl",), ("results.json", "report.html", ".lock")
    exported = ("vectors", "vectors/exact-square.json", "output.schema.json", "README.md")
    judged = ("vectors/exact-square.json", "outputs", "vectors")
    result = "A/results.json"
    adapter = "adapter.safetensors"
    return {
        "finetune, encoder": Program(_finetune, partial(_model, kind="bert"), *tuned, share=0.7),
        "finetune, decoder": Program(_finetune, partial(_model, kind="llama"), *tuned, share=0.4),
        "verification --full": Program(_verify, _nothing, _ratios, journal, (*journal, *report), units, resumes=True),
        "vectors export": Program(_export, _nothing, _contents, (), exported, locks=False),
        "vectors judge": Program(_judge, _with_outputs, _said, ("vectors/*.json",), judged, writes=False, share=0.25),
        "verification --compare": Program(_compare, _two_runs, _said, (result,), (result, "A"), writes=False),
        "load_adapter": Program(_predict, _adapter, _said, (adapter,), (adapter, *inputs), writes=False),
    }


def preload() -> None:
    """Import what the programs need, so that no process has to; none of it is used here, since
    threads do not survive a fork.
    """
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    for name in ("geolora_ref.cli", "geolora_ref.finetune.command", "geolora_ref.oracle.command", "verification.__main__"):
        import_module(name)
    for name in ("transformers.models.bert.modeling_bert", "transformers.models.llama.modeling_llama", "peft", "scipy.stats"):
        import_module(name)
    for name in ("geolora_ref.oracle.vectors", "geolora_ref.nn.exchange.export", "matplotlib.backends.backend_agg", "sklearn"):
        import_module(name)
    import_module("torch").set_num_threads(1)


def _nothing(folder: Path) -> None:
    """Nothing is read."""


def _said(folder: Path, said: str) -> str:
    return said


def _contents(folder: Path, said: str) -> dict[str, str]:
    """The digest of every file but checkpoints, locks and drafts, without measured times and seals."""
    left_out = ("checkpoint.safetensors", ".lock")
    files = [
        path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in left_out and path.suffix != ".part"
    ]
    return {str(path.relative_to(folder)): digest(CLOCK.sub(b"", path.read_bytes())) for path in files}


def _ratios(folder: Path, said: str) -> Any:
    return ratios(folder)


# --- fine-tuning -----------------------------------------------------------------------------------------------------


def _model(folder: Path, kind: str) -> None:
    """A transformer of one layer of width 16 with random weights, its tokenizer, and sentences with
    labels.
    """
    import tokenizers
    import torch
    import transformers

    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", *WORDS))}
    split = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106  (of a text)
    split.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=split, **special).save_pretrained(folder / "model")
    size = {"vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **size, intermediate_size=24, max_position_embeddings=16)
    transformers.AutoModel.from_config(config).save_pretrained(folder / "model")
    rows = [f"{WORDS[k % 4]} {WORDS[4 + k % 3]} was {WORDS[(k + 2 * (k % 5)) % 4]}\t{int(k % 4 < 2)}\n" for k in range(24)]
    (folder / "data.tsv").open("x", encoding="utf-8").writelines(rows)


def _finetune(folder: Path, anew: bool) -> int:
    command = ["finetune", "--model", str(folder / "model"), "--data", str(folder / "data.tsv"), "--output", str(folder)]
    return _geolora_ref(*command, *TUNING.split(), *(["--fresh"] if anew else []))


def _geolora_ref(*command: str) -> int:
    from geolora_ref.cli import main

    return main(command)


def _steps(folder: Path) -> Collection[Any]:
    """The steps that a checkpoint has, each as its number."""
    from geolora_ref.finetune.checkpoint import read_stored

    path = folder / "checkpoint.safetensors"
    return range(len(read_stored(path, "checkpoint").state["losses"])) if path.exists() else ()


def _adapter(folder: Path) -> None:
    _model(folder, kind="bert")
    _finetune(folder, anew=False)


def _predict(folder: Path, anew: bool) -> int:
    """Load an adapter and predict with it, as a server does."""
    from geolora_ref.finetune.adapter_file import load_adapter

    try:
        fine_tuned = load_adapter(folder / "adapter.safetensors", str(folder / "model"))
    except (ValueError, OSError) as error:
        print(error)
        return 2
    print(fine_tuned.outputs(["a good film", "bad plot"]).tolist())
    return 0


# --- verification and vectors ----------------------------------------------------------------------------------------


def _cases(plan: Plan) -> Iterator[Case]:
    yield from (Case(f"case {k}", {"k": k}) for k in range(20))


def _check(case: Case) -> CaseResult:
    return CaseResult(case.id, {"ratio": [case["k"] / 20.0]})


def _control(case: Case) -> CaseResult:
    return CaseResult(case.id, {"ratio": [2.0 + case["k"]]})


CLAIM = Claim(
    id="made-up",
    title="Numbers below one",
    section="of no theory",
    statement="k/20 ≤ 1",
    hypotheses=("k < 20",),
    sources=("GeoLoRA",),
    cases=_cases,
    check=_check,
    controls=(Control("above", "2 + k > 1", _cases, _control),),
    floor=20,
    explanation="A claim whose cases take no time.",
)
ONLY = ("--claim", f"{__name__}:CLAIM", "--only", CLAIM.id, "--jobs", "1", "--output")


def _verify(folder: Path, anew: bool) -> int:
    return _verification("--full", *ONLY, str(folder), *(["--fresh"] if anew else []))


def _verification(*command: str) -> int:
    from verification.__main__ import main

    return main(command)


def _two_runs(folder: Path) -> None:
    for name in ("A", "B"):
        _verification(*ONLY, str(folder / name))


def _compare(folder: Path, anew: bool) -> int:
    return _verification("--compare", str(folder / "A"), str(folder / "B"))


def _export(folder: Path, anew: bool) -> int:
    return _geolora_ref("vectors", "export", str(folder))


def _with_outputs(folder: Path) -> None:
    """Vectors, and the answers of the reference."""
    from geolora_ref.oracle.broken.mutants import REFERENCE
    from geolora_ref.oracle.vectors.documents import encode
    from geolora_ref.oracle.vectors.vector import load_vectors

    _export(folder, anew=False)
    for name, vector in load_vectors(folder).items():
        factors = REFERENCE.step(*vector.inputs.arrays, **vector.inputs.parameters)
        answer = {factor: encode(X) for factor, X in zip(("U1", "S1", "V1"), factors, strict=True)}
        write_atomically(folder / "outputs" / f"{name}.json", json.dumps({"id": name, **answer}))


def _judge(folder: Path, anew: bool) -> int:
    return _geolora_ref("vectors", "judge", str(folder), str(folder / "outputs"))


# --- a program that can be broken ------------------------------------------------------------------------------------


def planted(without: str) -> Program:
    """A program that counts to six and keeps its state; ``without`` one of :data:`PRECAUTIONS`, or
    "" for all of them.
    """
    file = ("state.json",)
    return Program(partial(_count, without), _nothing, _state, file, file, _counted, resumes=True)


def _state(folder: Path, said: str) -> Any:
    return read_json(folder / "state.json")


def _count(without: str, folder: Path, anew: bool) -> int:
    path = folder / "state.json"
    with ExitStack() as stack:
        if without == "not synced":
            stack.enter_context(patch("os.fsync", lambda handle: None))
        try:
            stack.enter_context(nullcontext() if without == "not locked" else locked(folder))
            state: dict[str, Any] = {"done": 0, "ballast": "x" * 9000}
            if path.exists() and not anew:
                state = _read(path, without)
            while state["done"] < STEPS:
                state["done"] += 1
                _write(path, without, state)
        except (OSError, ValueError) as error:
            if without == "errors raised":
                raise
            sys.stderr.write(f"{error}\n")
            return 2
    return 0


def _read(path: Path, without: str) -> dict[str, Any]:
    if without == "pipes opened":
        path.read_bytes()
    if without == "not sealed":
        state: dict[str, Any] = json.loads(read_regular(path))
        return {"done": int(state["done"]), "ballast": state["ballast"]}
    return read_json(path)


def _write(path: Path, without: str, state: Mapping[str, Any]) -> None:
    if without == "written in place":
        with path.open("w", encoding="utf-8") as file:
            json.dump(seal(dict(state)), file)
    else:
        write_json(path, dict(state))


def _counted(folder: Path) -> Collection[Any]:
    path = folder / "state.json"
    return range(read_json(path)["done"]) if path.exists() else ()
