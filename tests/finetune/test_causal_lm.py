"""The task "causal-lm": which tokens count, what a run writes, and that a killed one ends with the
same bits.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra finetune is not installed")

import torch
import transformers

from geolora_ref.finetune.__main__ import main
from geolora_ref.finetune.causal_lm import (
    Likelihood,
    Passage,
    Text,
    encode_passages,
    passages,
    read_texts,
)
from geolora_ref.finetune.job import Job
from geolora_ref.finetune.metrics import evaluate_metric
from geolora_ref.finetune.model import Decoder, bare_decoder, load_decoder, try_out_decoder
from tests.finetune.tiny import write_text

pytestmark = pytest.mark.usefixtures("unchecked")
FAST = [
    "--task",
    "causal-lm",
    "--lr",
    "0.1",
    "--max-length",
    "16",
    "--batch-size",
    "8",
    "--rank",
    "4",
]


def arguments(model: Path, data: Path, output: Path, *more: str) -> list[str]:
    return ["--model", str(model), "--data", str(data), "--output", str(output), *FAST, *more]


class Plain:
    """One token a word, and by choice one before every text."""

    eos_token_id = 1
    pad_token_id = None

    def __init__(self, first: int | None = None) -> None:
        self.bos_token_id = first

    def __call__(
        self, text: str, add_special_tokens: bool = True, verbose: bool = True
    ) -> dict[str, list[int]]:
        opening = (
            [self.bos_token_id] if add_special_tokens and self.bos_token_id is not None else []
        )
        return {"input_ids": [*opening, *map(int, text.split())]}


def line(prompt: str, completion: str) -> Text:
    return Text(Path("data.jsonl"), 3, prompt, completion)


def whole(text: str) -> Text:
    return Text(Path("data.txt"), 0, "", text)


@pytest.mark.parametrize(
    ("text", "first", "expected"),
    [
        (whole("5 6 7 8 9"), None, [([5, 6, 7, 8], 1, False), ([9, 1], 1, False)]),
        (
            whole("5 6 7 8"),
            None,
            [([5, 6, 7, 8], 1, False)],
        ),  # of the end alone nothing could be predicted
        (whole("5 6"), 3, [([3, 5, 6, 1], 1, False)]),
        (line("5 6", " 7"), None, [([5, 6, 7, 1], 2, False)]),
        (line("5", " 7"), 3, [([3, 5, 7, 1], 2, False)]),
        (line("5 6", "7"), None, [([5, 67, 1], 1, False)]),  # a token across the border counts
        (line("", "7 8"), None, [([7, 8, 1], 1, False)]),
        (line("5", " 6 7 8 9"), None, [([5, 6, 7, 8], 1, True)]),
    ],
)
def test_texts_are_blocks_and_completions_alone_count(
    text: Text, first: int | None, expected: list[Any]
) -> None:
    assert passages(text, Plain(first), 4) == [Passage(text.path, *one) for one in expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (line("5 6 7 8", " 9"), "found 4 tokens of prompt and 2 of completion"),
        (line("5 6 7 8 9", " 9"), "found 5 tokens of prompt and 2 of completion"),
        (line("", " "), "found 0 tokens of prompt and 1 of completion"),
    ],
)
def test_a_prompt_without_room_for_its_completion_is_refused(text: Text, message: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"^data.jsonl, line 3: expected room for a completion within max_length = 4 .*{message}",
    ):
        passages(text, Plain(), 4)


def test_nats_are_those_of_the_tokens_that_count(decoder_folder: Path) -> None:
    """By hand, one token after the other; in one batch with a longer example."""
    pretrained, tokenizer = load_decoder(decoder_folder)
    given = [Passage(Path(), [4, 5, 6, 7, 8, 9], 3), Passage(Path(), [9, 8, 7], 1)]
    examples = encode_passages(given, tokenizer)
    inputs, targets = examples.batch(range(2), torch.device("cpu"))
    with torch.no_grad():
        found = Decoder(pretrained)(**inputs)
        expected = []
        for one in given:
            log_p = pretrained(torch.tensor([one.ids])).logits[0].log_softmax(dim=-1)
            expected.append(
                -sum(float(log_p[at - 1, one.ids[at]]) for at in range(one.start, len(one.ids)))
            )
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert targets.tolist() == [3, 2]
    mean = sum(expected) / 5
    assert float(Likelihood().loss(found, targets)) == pytest.approx(mean, rel=1e-5)
    assert evaluate_metric("perplexity", targets.numpy(), found.numpy()) == pytest.approx(
        float(torch.tensor(mean).exp()), rel=1e-5
    )


def test_a_model_that_reads_ahead_is_refused(decoder_folder: Path) -> None:
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7, 8]]),
        "attention_mask": torch.ones(1, 4, dtype=torch.int64),
    }
    pretrained, _ = load_decoder(decoder_folder)
    try_out_decoder(pretrained, inputs | {"next_ids": inputs["input_ids"]})
    masked = transformers.BertLMHeadModel(transformers.BertConfig(**SIZES)).eval()
    wanted = r"^model: expected a decoder that predicts each of 4 tokens \(max_length is the most\) by those before it, found "
    with pytest.raises(
        ValueError, match=wanted + "BertLMHeadModel, whose logits change with the last token"
    ):
        try_out_decoder(masked, inputs)
    with pytest.raises(ValueError, match=wanted + "LlamaForCausalLM: "):
        try_out_decoder(pretrained, {"input_ids": torch.full((1, 4), 99)})
    with torch.no_grad():
        pretrained.model.norm.weight.fill_(float("nan"))
    with pytest.raises(
        ValueError, match=wanted + "LlamaForCausalLM with logits that are not finite"
    ):
        try_out_decoder(pretrained, inputs)


def test_an_encoder_is_refused_by_its_configuration(
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one sentence, and before weights are read."""
    monkeypatch.setattr(
        "geolora_ref.finetune.causal_lm.load_decoder", lambda *_: pytest.fail("it was read")
    )
    with pytest.raises(SystemExit) as stopped:
        main(arguments(model_folder, write_text(tmp_path / "text.txt", 160), tmp_path / "run"))
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "geolora-ref finetune: model: expected a decoder that predicts each token by those before it, found an encoder (bert)\n"
    )


SIZES = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
CONFIGURATIONS: dict[str, tuple[Any, str | None]] = {
    "an encoder that decodes": (transformers.BertConfig(**SIZES, is_decoder=True), None),
    "a causal one": (
        transformers.XLMConfig(vocab_size=20, emb_dim=16, n_layers=1, n_heads=2, causal=True),
        None,
    ),
    "one with masked words": (
        transformers.XLMConfig(vocab_size=20, emb_dim=16, n_layers=1, n_heads=2),
        "an encoder (xlm)",
    ),
    "no language model": (transformers.ViTConfig(), "another kind of model (vit)"),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_the_configuration_says_whether_a_model_decodes(tmp_path: Path, case: str) -> None:
    configuration, found = CONFIGURATIONS[case]
    configuration.save_pretrained(tmp_path)
    if found is None:
        assert bare_decoder(tmp_path).config.model_type == configuration.model_type
        return
    with pytest.raises(ValueError, match=rf"by those before it, found {re.escape(found)}$"):
        bare_decoder(tmp_path)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_run_on_text_writes_what_peft_reads(
    decoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peft = pytest.importorskip("peft", reason="the extra peft is not installed")
    text, dev, output = (
        write_text(tmp_path / "text.txt", 160),
        write_text(tmp_path / "dev.txt", 24, seed=1),
        tmp_path / "run",
    )
    assert main(arguments(decoder_folder, text, output, "--dev", str(dev), "--epochs", "2")) == 0
    printed = capsys.readouterr().out
    assert "60 examples for the training, 9 for the metric, of at most 16 tokens\n" in printed
    assert re.search(r"^first example: 'the (film|plot|actor) is very ", printed, re.MULTILINE)
    found = [
        float(value)
        for value in re.findall(
            r"epoch \d of 2: training loss \d\.\d+, dev perplexity (\d+\.\d+), ", printed
        )
    ]
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert [epoch["dev"] for epoch in results["metrics"]] == pytest.approx(found, abs=1e-4)
    assert f"perplexity of the pretrained model: {results['baseline']:.4f}\n" in printed
    assert results["baseline"] > 15 > found[0] > found[1] > 1
    assert results["learned"]
    assert len(results["ranks"]) == 14  # and not the output layer, which is the embedding's
    assert {path.name for path in output.iterdir()} >= {
        "checkpoint.safetensors",
        "lora",
        "ranks.png",
        "results.json",
    }
    assert not (output / "adapter.safetensors").exists()
    plain = peft.AutoPeftModelForCausalLM.from_pretrained(output / "lora").eval()
    pretrained, tokenizer = load_decoder(decoder_folder)
    examples = encode_passages(
        [one for some in read_texts(dev) for one in passages(some, tokenizer, 16)], tokenizer
    )
    inputs, counts = examples.batch(range(9), torch.device("cpu"))
    with torch.no_grad():
        measured = [
            float((Decoder(model)(**inputs).sum() / counts.sum()).exp())
            for model in (pretrained, plain)
        ]
    assert measured == pytest.approx([results["baseline"], results["metrics"][-1]["dev"]], rel=1e-4)


def test_a_killed_run_ends_with_the_same_file(
    decoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at its third checkpoint, on prompts with completions of different lengths."""
    data = tmp_path / "data.jsonl"
    nouns = ("film", "plot", "the actor", "a very very dull film")
    rows = [
        {"prompt": f"the {nouns[i % 4]} is", "completion": "very good a film" if i % 3 else "bad"}
        for i in range(30)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    save, saved = Job.save, []

    def killed(job: Job) -> None:
        save(job)
        saved.append(job.history.steps)
        if len(saved) == 3:
            raise KeyboardInterrupt

    for name in ("undisturbed", "killed"):
        with monkeypatch.context() as patch:
            if name == "killed":
                patch.setattr(Job, "save", killed)
                assert (
                    main(
                        arguments(decoder_folder, data, tmp_path / name, "--checkpoint-every", "1")
                    )
                    == 130
                )
        assert (
            main(arguments(decoder_folder, data, tmp_path / name, "--checkpoint-every", "1")) == 0
        )
    assert saved == [1, 2, 3]
    one, other = (
        (tmp_path / name / "lora" / "adapter_model.safetensors").read_bytes()
        for name in ("undisturbed", "killed")
    )
    assert one == other


OBJECT = '{"prompt": "the", "completion": "film"}'
WANTED = r'expected an object {"prompt": a text, "completion": a text that is not empty}, found '
BAD_TEXTS = {
    "empty": ("data.txt", "", "data.txt: expected text, found none"),
    "white": ("data.txt", " \n ", "data.txt: expected text, found none"),
    "no lines": ("data.jsonl", "\n", "data.jsonl: expected text, found none"),
    "no JSON": ("data.jsonl", f"{OBJECT}\nthe film\n", f"data.jsonl, line 2: {WANTED}the film"),
    "a list": ("data.jsonl", '["the", "film"]', f'line 1: {WANTED}["the", "film"]'),
    "an empty line": ("data.jsonl", f"{OBJECT}\n\n{OBJECT}", f"line 2: {WANTED}an empty line"),
    "other keys": ("data.jsonl", '{"text": "the film"}', WANTED + '{"text": "the film"}'),
    "no text": ("data.jsonl", '{"prompt": "the", "completion": 3}', f"line 1: {WANTED}"),
    "half a character": (
        "data.jsonl",
        '{"prompt": "\\ud83d", "completion": "x"}',
        f"line 1: {WANTED}",
    ),
    "brackets without end": ("data.jsonl", "[" * 100_000, f"line 1: {WANTED}"),
    "nothing to learn": ("data.jsonl", '{"prompt": "the", "completion": ""}', f"line 1: {WANTED}"),
}


@pytest.mark.parametrize(("name", "text", "message"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_file_without_examples_is_refused_with_its_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        read_texts(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "the film",
            (),
            "text.txt: expected at least 2 examples of at most 16 tokens, one of them for the metric, found 1; a smaller",
        ),
        (
            "the film " * 20,
            (),
            "dev_fraction: expected a number between 0 and 1 that leaves examples on both sides, found 0.1 of 3",
        ),
        ("the film", ("--max-length", "1"), "max_length: expected an integer >= 2, found 1"),
    ],
)
def test_too_little_text_is_status_2(
    decoder_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        main(arguments(decoder_folder, tmp_path / "text.txt", tmp_path / "run", *options))
    assert message in capsys.readouterr().err


def test_options_of_a_decoder_are_checked_before_texts_and_weights_are_read(
    decoder_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The output layer of this model shares its weight."""
    for name in ("read_texts", "load_decoder"):
        monkeypatch.setattr(
            f"geolora_ref.finetune.causal_lm.{name}", lambda *_: pytest.fail("it was read")
        )
    with pytest.raises(SystemExit, match="2"):
        main(
            arguments(
                decoder_folder,
                write_text(tmp_path / "t.txt", 9),
                tmp_path / "run",
                "--target-modules",
                "lm_head",
            )
        )
    wanted = "lm_head: expected a weight of its own, found one that it shares with model.embed_tokens; exclude the layer"
    assert wanted in capsys.readouterr().err


def test_what_looks_wrong_is_said(
    decoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines of JSON that are taken for text, examples that are cut, and a run that makes the model
    worse.
    """
    (tmp_path / "text.txt").write_text(f"{OBJECT}\n" * 99, encoding="utf-8")
    (tmp_path / "data.jsonl").write_text(
        f"{OBJECT}\n" + OBJECT.replace("film", "film " * 20) + "\n", encoding="utf-8"
    )
    call = arguments(
        decoder_folder,
        tmp_path / "text.txt",
        tmp_path / "run",
        "--dev",
        str(tmp_path / "data.jsonl"),
        "--lr",
        "0",
    )
    assert main(call) == 0
    printed = capsys.readouterr().out
    assert "text.txt: are these lines of JSON?" in printed
    assert "1 examples are longer, and were cut\n" in printed
    assert re.search(
        r"nothing was learned: the perplexity is not below \d+\.\d+, that of the pretrained model\n",
        printed,
    )


ROOT = Path(__file__).parents[2]


def _python_with_blocks(page: str) -> list[str]:
    """The examples of a page that have blocks of tokens."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    return [code for code in found if "blocks" in code]


@pytest.mark.parametrize("page", ["README.md", "docs/finetuning.md"])
def test_the_loop_by_hand_runs_as_it_stands(
    page: str, decoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README has a model and blocks of its own; the page makes others for the same loop, here
    of a small model.
    """
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "text.txt", 400)
    (code,) = _python_with_blocks("README.md")
    if page != "README.md":
        imports, loop = code.split("\nsizes = ")[0], code[code.index("adapt(model") :]
        code = "\n".join([imports, *_python_with_blocks(page), loop])
    names: dict[str, Any] = {}
    losses: list[float] = []
    forward = transformers.LlamaForCausalLM.forward

    def noted(model: Any, **inputs: Any) -> Any:
        found = forward(model, **inputs)
        losses.append(float(found.loss.detach()))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(transformers.LlamaForCausalLM, "forward", noted)
        exec(code.replace("HuggingFaceTB/SmolLM2-135M", str(decoder_folder)), names)
    assert len(losses) > 1
    assert losses[-1] < losses[0]
    assert (tmp_path / "lora" / "adapter_config.json").is_file()
