"""GeoLoRA under transformers.Trainer: the same as a plain loop, and a checkpoint from which
training continues.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

REASON = "the extra peft is not installed"
peft = pytest.importorskip("peft", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)
safetensors_torch = pytest.importorskip("safetensors.torch", reason=REASON)

from geolora_ref.nn import GeoLoRA, adapt, adapters  # noqa: E402
from geolora_ref.nn.exchange.peft_tuner import GeoLoraConfig, create_geolora_optimizer  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("module_unchecked"),
    pytest.mark.filterwarnings(
        "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
    ),  # PEFT calls transformers so
]

STEPS, SAVED_AT = 12, 6


class Sentences(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The label says whether there are more small than large token numbers."""

    def __init__(self, count: int = 64) -> None:
        self.tokens = torch.randint(3, 60, (count, 9), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = self.tokens[index]
        return {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "labels": ((tokens < 31).sum() > 4).long(),
        }


def bert() -> nn.Module:
    """Two layers, random weights, without dropout."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def tuned(method: str) -> Any:
    """The model with adapters, put in by PEFT or by this package."""
    model = bert()
    torch.manual_seed(1)
    if method == "peft":
        config = GeoLoraConfig(
            task_type="SEQ_CLS", rank=3, max_rank=6, modules_to_save=["classifier"]
        )
        return peft.get_peft_model(model, config)
    adapt(model, rank=3, max_rank=6, train=["classifier"])
    return model


def trainer(model: nn.Module, directory: Path, steps: int = STEPS, **options: Any) -> Any:
    """GeoLoRA and a linear schedule, given as ``optimizers``."""
    arguments = transformers.TrainingArguments(
        output_dir=str(directory),
        max_steps=steps,
        per_device_train_batch_size=8,
        save_steps=SAVED_AT,
        logging_steps=STEPS,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=True,
        seed=3,
        **options,
    )
    optimizer = GeoLoRA(model, lr=0.02, tau=0.3)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, STEPS)
    run = transformers.Trainer(
        model=model, args=arguments, train_dataset=Sentences(), optimizers=(optimizer, schedule)
    )
    run.model_accepts_loss_kwargs = (
        False  # divide by the accumulated batches: the loss of BERT does not do it itself
    )
    return run


def ranks(model: nn.Module) -> list[int]:
    return [layer.adapter.rank for layer in adapters(model).values()]


def logits(model: nn.Module) -> Tensor:
    data = Sentences()
    with torch.no_grad():
        result: Tensor = model.eval()(
            input_ids=data.tokens, attention_mask=torch.ones_like(data.tokens)
        ).logits
    return result


def test_what_transformers_saves_of_an_adapted_model_is_loaded_into_an_adapted_one(
    tmp_path: Path,
) -> None:
    """``from_pretrained`` knows no adapters: the page about PEFT warns of it."""
    model = tuned("adapt")
    trainer(model, tmp_path / "run", 2).train()
    model.save_pretrained(tmp_path / "saved")
    read, report = type(model).from_pretrained(tmp_path / "saved", output_loading_info=True)
    adapted = {f"{name}.weight" for name in adapters(model)}
    assert adapted <= set(report["missing_keys"])
    assert not torch.equal(logits(read), logits(model))
    again = tuned("adapt")
    again.load_state_dict(
        safetensors_torch.load_file(tmp_path / "saved" / "model.safetensors"), strict=False
    )
    assert ranks(again) == ranks(model)
    assert torch.equal(logits(again), logits(model))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A whole run, with its checkpoints."""
    directory = tmp_path_factory.mktemp("run")
    run = trainer(tuned("peft"), directory)
    run.train()
    return run, directory


def test_the_ranks_move_and_the_model_learns(uninterrupted: Any) -> None:
    run, _ = uninterrupted
    before, after = logits(tuned("peft")), logits(run.model)
    labels = torch.stack([row["labels"] for row in (Sentences()[i] for i in range(64))])
    loss = nn.functional.cross_entropy
    assert float(loss(after, labels)) < float(loss(before, labels))
    assert len(set(ranks(run.model))) > 1
    assert not run.optimizer.optimizer.skipped


def test_resumed_from_a_checkpoint(uninterrupted: Any) -> None:
    """A new process would do the same: a fresh model and optimizer, ranks and memory from the
    files; bit for bit.
    """
    run, directory = uninterrupted
    resumed = trainer(tuned("peft"), directory)
    resumed.train(resume_from_checkpoint=str(directory / f"checkpoint-{SAVED_AT}"))
    assert resumed.state.global_step == STEPS
    assert ranks(resumed.model) == ranks(run.model)
    assert torch.equal(logits(resumed.model), logits(run.model))


def test_a_checkpoint_without_the_memory_goes_another_way(
    uninterrupted: Any, tmp_path: Path
) -> None:
    """The negative control: only the adapter is loaded, the optimizer starts from scratch."""
    run, directory = uninterrupted
    model = tuned("peft")
    model.load_adapter(str(directory / f"checkpoint-{SAVED_AT}"), "default", is_trainable=True)
    trainer(model, tmp_path, STEPS - SAVED_AT).train()
    assert not torch.equal(logits(model), logits(run.model))


def test_the_checkpoint_is_an_adapter_that_peft_loads(uninterrupted: Any) -> None:
    run, directory = uninterrupted
    loaded = peft.PeftModel.from_pretrained(bert(), directory / f"checkpoint-{STEPS}")
    assert ranks(loaded) == ranks(run.model)
    assert torch.equal(logits(loaded), logits(run.model))


def test_with_adapters_of_this_package(tmp_path: Path) -> None:
    """Without PEFT the checkpoint is the whole model; the ranks come back with it."""
    whole = trainer(tuned("adapt"), tmp_path)
    whole.train()
    resumed = trainer(tuned("adapt"), tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{SAVED_AT}"))
    assert ranks(resumed.model) == ranks(whole.model)
    assert len(set(ranks(whole.model))) > 1
    assert torch.equal(logits(resumed.model), logits(whole.model))


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_plain_loop_does_the_same(tmp_path: Path, accumulated: int) -> None:
    """The loop that the Trainer stands for: its order of data, clipping at 1, accumulation, the
    schedule.
    """
    steps = 4
    run = trainer(
        tuned("peft"), tmp_path, steps, gradient_accumulation_steps=accumulated, save_strategy="no"
    )
    run.train()
    batches: list[Any] = []
    recorder = trainer(
        tuned("peft"), tmp_path, steps, gradient_accumulation_steps=accumulated, save_strategy="no"
    )
    original = recorder.training_step

    def recorded(model: nn.Module, inputs: Any, *others: Any) -> Any:
        batches.append(inputs)
        return original(model, inputs, *others)

    recorder.training_step = recorded
    recorder.train()
    model = tuned("peft").train()
    optimizer = GeoLoRA(model, lr=0.02, tau=0.3)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, STEPS)
    for number, batch in enumerate(batches, start=1):
        (model(**batch).loss / accumulated).backward()
        if number % accumulated == 0:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    assert len(batches) == steps * accumulated
    assert torch.equal(logits(model), logits(run.model))
    assert ranks(model) == ranks(run.model)


@pytest.mark.parametrize("method", ["peft", "adapt"])
def test_trainer_makes_the_optimizer_from_its_class(tmp_path: Path, method: str) -> None:
    """Trainer gives groups of tensors, among which the adapters are found: the same training as
    with the model, bit for bit.
    """
    options: dict[str, Any] = {"lr": 0.02, "tau": 0.3}
    run = {
        "output_dir": str(tmp_path),
        "max_steps": 4,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    arguments = transformers.TrainingArguments(
        **run, dataloader_pin_memory=False, save_strategy="no"
    )
    found = []
    for by_class in (True, False):
        model = tuned(method)
        ways: dict[str, Any] = {"optimizer_cls_and_kwargs": (GeoLoRA, dict(options))}
        if not by_class:
            ways = {"optimizers": (create_geolora_optimizer(model, **options), None)}
        trained = transformers.Trainer(
            model=model, args=arguments, train_dataset=Sentences(), **ways
        )
        trained.train()
        found.append((ranks(model), logits(model), trained.optimizer.optimizer))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    for _, _, optimizer in found:
        assert isinstance(optimizer, GeoLoRA)
        assert [bool(group["adapters"]) for group in optimizer.param_groups].count(True) == 1
