"""The loop: a run that is killed anywhere and taken up again ends with the same parameters, bit for bit."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the extra finetune is not installed")

import torch

from geolora_ref.finetune.batches import encode
from geolora_ref.finetune.checkpoint import read_stored, trained_state, write_stored
from geolora_ref.finetune.data import Columns, read_rows
from geolora_ref.finetune.job import Data, DivergedError, History, Job, Plan
from geolora_ref.finetune.labels import fit_labels
from geolora_ref.finetune.methods import GeoLoRAMethod, Prepared
from geolora_ref.finetune.model import Classifier, Model, load_encoder
from geolora_ref.nn import adapters
from tests.devices import DEVICES

pytestmark = pytest.mark.usefixtures("module_unchecked")
METHOD = GeoLoRAMethod(
    lr=1e-2, update="adam", head_lr=1e-2, rank=4, max_rank=6
)  # two moments to store
PLAN = Plan("accuracy", epochs=2, batch_size=32, schedule="linear", warmup=0.2)
STEPS = 10


class Killed(BaseException):
    """An exception that no handler catches, like a SIGKILL."""


@pytest.fixture(scope="module")
def make_job(model_folder: Path, tsv: Path, module_unchecked: None) -> Callable[..., Job]:
    """A job of ten steps on the tiny model; the encoder is read once."""
    encoder, tokenizer = load_encoder(model_folder)
    rows = read_rows(tsv, Columns())
    labels = fit_labels(rows, "class")
    train, dev = (encode(part, tokenizer, labels, 16) for part in (rows, rows[:60]))

    def make(**options: Any) -> Job:
        method, plan, device = (
            options.pop("method", METHOD),
            options.pop("plan", PLAN),
            options.pop("device", "cpu"),
        )

        def model(generator: torch.Generator) -> Classifier:
            return Classifier(copy.deepcopy(encoder), labels.outputs, generator).to(device)

        return Job(model, method, Data(train, {"dev": dev}, labels), plan, **options)

    return make


@pytest.fixture(scope="module")
def undisturbed(make_job: Callable[..., Job]) -> Job:
    job = make_job()
    job.run()
    return job


def kill_at(step: int) -> Callable[[int, int], None]:
    def on_step(done: int, total: int) -> None:
        if done == step:
            raise Killed

    return on_step


def killed_and_resumed(make_job: Callable[..., Job], checkpoint: Path, step: int) -> Job:
    """Checkpoints every two steps; a kill in step ``step``; a new job that finds the checkpoint."""
    with pytest.raises(Killed):
        make_job(checkpoint=checkpoint, checkpoint_every=2, on_step=kill_at(step)).run()
    job = make_job(checkpoint=checkpoint, checkpoint_every=2)
    assert job.history.steps == max(saved for saved in (0, 2, 4, 5, 6, 8) if saved < step)
    job.run()
    return job


def differences(a: Job, b: Job) -> list[str]:
    """Names of what is not the same bits: parameters, ranks, losses, metrics."""
    one, other = trained_state(a.model), trained_state(b.model)
    assert list(one) == list(other)
    different = [
        name
        for name in one
        if one[name].shape != other[name].shape or not torch.equal(one[name], other[name])
    ]
    records = ("losses", "ranks", "rank_steps", "metrics", "truncations", "exact")
    return different + [
        name for name in records if getattr(a.history, name) != getattr(b.history, name)
    ]


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_kill_and_resume_gives_the_same_bits(
    make_job: Callable[..., Job], undisturbed: Job, tmp_path: Path, step: int
) -> None:
    assert (
        differences(
            killed_and_resumed(make_job, tmp_path / "checkpoint.safetensors", step), undisturbed
        )
        == []
    )


@pytest.mark.parametrize(("max_rank", "room"), [(6, 6), (2, 4), (None, 16)])
def test_adapters_have_room_for_the_largest_rank(
    make_job: Callable[..., Job], max_rank: int | None, room: int
) -> None:
    """And for the one that they begin with; without a limit for four times that."""
    layers = adapters(make_job(method=replace(METHOD, max_rank=max_rank)).model.encoder)
    assert {layer.adapter.max_rank for layer in layers.values()} == {room}


def test_a_method_is_called_after_every_step(make_job: Callable[..., Job], tmp_path: Path) -> None:
    """AdaLoRA needs the call while the gradients of the step are there; a resumed run continues the count."""
    calls: list[tuple[int, bool]] = []

    class Recorded(GeoLoRAMethod):
        def prepare(self, model: Model, generator: torch.Generator, steps: int) -> Prepared:
            prepared = super().prepare(model, generator, steps)
            return replace(
                prepared,
                after_step=lambda done: calls.append((done, model.head.weight.grad is not None)),
            )

    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Killed):
        make_job(
            method=Recorded(), checkpoint=checkpoint, checkpoint_every=2, on_step=kill_at(3)
        ).run()
    make_job(method=Recorded(), checkpoint=checkpoint).run()
    assert calls == [(done, True) for done in (1, 2, 3, *range(3, STEPS + 1))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("forgets", [False, True])
def test_the_random_state_of_a_device_is_in_the_checkpoint(
    make_job: Callable[..., Job],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    *,
    forgets: bool,
) -> None:
    """The same dropout gives the same losses, up to rounding where a device adds in any order;
    another one is 1e-2 away.
    """
    straight, checkpoint = make_job(device=device), tmp_path / "checkpoint.safetensors"
    straight.run()
    with pytest.raises(Killed):
        make_job(device=device, checkpoint=checkpoint, checkpoint_every=2, on_step=kill_at(5)).run()
    if forgets:
        monkeypatch.setattr(Job, "_set_random_state", forget_randomness)
    resumed = make_job(device=device, checkpoint=checkpoint)
    resumed.run()
    assert {X.device.type for X in resumed.model.parameters()} == {device}
    off = np.abs(np.subtract(resumed.history.losses, straight.history.losses)[4:]).max()
    assert (off > 1e-3) == forgets


def test_a_checkpoint_with_the_state_of_a_device_that_is_gone_goes_on(
    make_job: Callable[..., Job], undisturbed: Job, tmp_path: Path
) -> None:
    """A run on the CPU queries no other device."""
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Killed):
        make_job(checkpoint=path, checkpoint_every=2, on_step=kill_at(5)).run()
    stored = read_stored(path, "checkpoint")
    assert list(stored.state["random"]) == ["cpu"]
    stored.state["random"]["cuda"] = torch.get_rng_state()
    write_stored(path, stored)
    resumed = make_job(checkpoint=path)
    resumed.run()
    assert differences(resumed, undisturbed) == []


@dataclass
class Generators:
    """Stands in for a kind of device that is not here: its module in torch, with one global
    generator a device.
    """

    states: list[torch.Tensor]

    def get_rng_state(self, device: torch.device) -> torch.Tensor:
        return self.states[device.index or 0]

    def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
        self.states[device.index or 0] = state


@pytest.mark.parametrize("name", ["mps", "xpu:1", "cuda:1"])
def test_the_generator_of_the_models_device_alone_is_private_and_kept(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    job, generators, real = (
        make_job(),
        Generators([torch.full((1,), X) for X in (0.0, 1.0, 2.0)]),
        torch.Generator,
    )
    job.device = device = torch.device(name)
    index, states = device.index or 0, [0.0, 1.0, 2.0]
    monkeypatch.setattr(torch, "Generator", lambda _: real())
    monkeypatch.setattr(torch, "get_device_module", lambda _: generators)
    with job._private_randomness():
        found = job._get_random_state()
        assert set(found) == {"cpu", device.type}
        assert torch.equal(found[device.type], real().manual_seed(PLAN.seed).get_state())
        job._set_random_state(found | {device.type: torch.tensor([7.0])})
        assert [float(X) for X in generators.states] == [
            7.0 if place == index else X for place, X in enumerate(states)
        ]
        with pytest.raises(
            ValueError,
            match=f"^checkpoint: expected the random state of {name}, found those of cpu",
        ):
            job._set_random_state({"cpu": found["cpu"]})
    assert [float(X) for X in generators.states] == states


def forget_randomness(job: Job, state: dict[str, Any]) -> None:
    """Dropout starts over."""


def forget_moments(optimizer: Any, state: dict[str, Any]) -> None:
    """The optimizer starts over."""


@pytest.mark.parametrize(
    ("what", "mutant"),
    [
        ("geolora_ref.finetune.job.Job._set_random_state", forget_randomness),
        ("geolora_ref.nn.optim.geolora.GeoLoRA.load_state_dict", forget_moments),
        ("geolora_ref.finetune.job.load_trained_state", lambda model, state: None),
    ],
    ids=["random state", "optimizer state", "parameters"],
)
def test_resume_that_forgets_something_is_noticed(
    make_job: Callable[..., Job],
    undisturbed: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    mutant: Callable[..., None],
) -> None:
    monkeypatch.setattr(what, mutant)
    try:
        resumed = killed_and_resumed(make_job, tmp_path / "checkpoint.safetensors", 8)
    except RuntimeError as error:
        assert "the optimizer remembers rank" in str(error)  # noqa: PT017  (one of the ways in which it is noticed)
    else:
        assert differences(resumed, undisturbed) != []


def test_truncations_are_counted_and_those_by_householders_qr(
    make_job: Callable[..., Job], undisturbed: Job, tmp_path: Path
) -> None:
    """All of them by the reference, those that the guard sent there by the fast path; over a kill
    as well.
    """
    layers, straight = len(undisturbed.history.layers), undisturbed
    reference = make_job(method=replace(METHOD, fast=False))
    reference.run()
    assert (reference.history.truncations, reference.history.exact) == (
        STEPS * layers,
        STEPS * layers,
    )
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Killed):
        make_job(checkpoint=checkpoint, checkpoint_every=2, on_step=kill_at(7)).run()
    resumed = make_job(checkpoint=checkpoint)
    resumed.run()
    assert straight.history.truncations == STEPS * layers
    assert straight.history.exact < STEPS * layers
    assert differences(straight, resumed) == []


def test_a_longer_run_goes_on_from_the_end_of_a_shorter_one(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    """The same bits as at once; the warm-up has as many steps, 2 of 5 or of 10."""
    checkpoint, longer = tmp_path / "checkpoint.safetensors", Plan("accuracy", epochs=2, warmup=0.2)
    make_job(plan=Plan("accuracy", warmup=0.4), checkpoint=checkpoint).run()
    extended, at_once = make_job(plan=longer, checkpoint=checkpoint), make_job(plan=longer)
    assert extended.history.steps == 5
    for job in (extended, at_once):
        job.run()
    assert differences(extended, at_once) == []


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            Plan("accuracy", epochs=4, schedule="linear", warmup=0.2),
            r"10 steps at the learning rates with which 4 epochs begin, found those of 2 epochs .* 0.2; choose 2 epochs; a",
        ),
        (
            Plan("accuracy", epochs=1, schedule="linear", warmup=0.2),
            r"at most the 5 steps of 1 epochs, found that 10 are done; a",
        ),
        (
            Plan("accuracy", epochs=4, warmup=0.2),
            r"another one: schedule was 'linear', is now 'constant'; a fresh",
        ),
    ],
)
def test_a_run_whose_rates_would_have_been_others_is_not_extended(
    make_job: Callable[..., Job], finished: Path, plan: Plan, message: str
) -> None:
    """Halfway through four epochs a linear schedule has not come down to 0."""
    with pytest.raises(ValueError, match=message):
        make_job(plan=plan, checkpoint=finished)


def test_the_warmup_that_a_refusal_names_is_accepted(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    """A third of 0.4, in all its digits: with fewer the rise would end a step early."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    make_job(plan=Plan("accuracy", warmup=0.4), checkpoint=checkpoint).run()
    with pytest.raises(ValueError, match=r"--warmup 0\.13") as refused:
        make_job(plan=Plan("accuracy", epochs=3, warmup=0.4), checkpoint=checkpoint)
    (cure,) = re.findall(r"--warmup (\S+),", str(refused.value))
    assert (
        make_job(
            plan=Plan("accuracy", epochs=3, warmup=float(cure)), checkpoint=checkpoint
        ).history.steps
        == 5
    )


CONTINUED = {
    "constant": (Plan("accuracy"), Plan("accuracy", epochs=3), 5, True),
    "shorter": (Plan("accuracy", epochs=3), Plan("accuracy", epochs=2), 10, True),
    "too short": (Plan("accuracy", epochs=3), Plan("accuracy", epochs=2), 11, False),
    "a longer rise": (
        Plan("accuracy", warmup=0.4),
        Plan("accuracy", epochs=2, warmup=0.4),
        5,
        False,
    ),
    "the same rise": (
        Plan("accuracy", warmup=0.4),
        Plan("accuracy", epochs=2, warmup=0.2),
        5,
        True,
    ),
    "a fall": (
        Plan("accuracy", schedule="linear"),
        Plan("accuracy", epochs=2, schedule="linear"),
        2,
        False,
    ),
    "before the fall": (
        Plan("accuracy", schedule="linear", warmup=0.4),
        Plan("accuracy", epochs=2, schedule="linear", warmup=0.2),
        2,
        True,
    ),
}


@pytest.mark.parametrize(("before", "plan", "done", "expected"), CONTINUED.values(), ids=CONTINUED)
def test_a_run_continues_another_whose_steps_had_its_rates(
    before: Plan, plan: Plan, done: int, expected: bool
) -> None:
    assert plan.continues(before, done, 5) == expected


def test_finished_run_is_not_repeated(make_job: Callable[..., Job], tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    make_job(checkpoint=checkpoint).run()
    again = make_job(checkpoint=checkpoint, on_step=kill_at(STEPS))
    assert again.history.steps == STEPS
    again.run()


def test_run_learns_and_ranks_move(undisturbed: Job) -> None:
    history = undisturbed.history
    assert history.steps == STEPS
    assert history.learned(math.log(2.0))
    assert not history.learned(0.0)
    late = History(losses=[3.0] * 36 + [1.0] * 4)
    assert late.learned(1.1)
    assert not late.learned(1.0)
    assert not History(losses=[1.0] * 36 + [3.0] * 4).learned(1.1)
    assert history.metrics[-1]["dev"] > history.metrics[0]["dev"] > 0.5
    assert history.rank_steps == list(range(STEPS + 1))
    assert set(history.ranks[0]) == {4}
    assert len(set(history.ranks[-1])) > 1
    assert history.ranks[-1] == list(undisturbed.prepared.ranks().values())


def test_adapted_model_starts_as_the_pretrained_one(
    make_job: Callable[..., Job], model_folder: Path
) -> None:
    job = make_job()
    encoder, _ = load_encoder(model_folder)
    inputs, _ = job.data.train.batch(range(8), torch.device("cpu"))
    with torch.no_grad():
        expected, found = (
            m.eval()(**inputs).last_hidden_state for m in (encoder, job.model.encoder)
        )
    assert float((expected - found).abs().max()) == 0.0


def test_global_generator_is_left_alone(make_job: Callable[..., Job]) -> None:
    before = torch.get_rng_state()
    make_job(plan=Plan("accuracy", batch_size=80)).run()
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_differ(make_job: Callable[..., Job], undisturbed: Job) -> None:
    other = make_job(plan=Plan("accuracy", epochs=2, seed=1, schedule="linear", warmup=0.2))
    other.run()
    assert other.history.losses != undisturbed.history.losses


def test_predictions_are_in_the_order_of_the_examples(undisturbed: Job) -> None:
    examples = undisturbed.data.evaluation["dev"]
    inputs, _ = examples.batch(range(len(examples)), undisturbed.device)
    with torch.no_grad():
        together = undisturbed.model.eval()(**inputs).argmax(dim=1)
    assert torch.equal(undisturbed.predict(examples), together)


@pytest.mark.parametrize(
    "method", [METHOD, GeoLoRAMethod(lr=3e-2, update="sgd", weight_decay=1e6, head_lr=1e30)]
)
def test_loss_that_is_not_finite_stops_the_run(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, method: GeoLoRAMethod
) -> None:
    if method is METHOD:
        monkeypatch.setattr(
            "geolora_ref.finetune.labels.Labels.loss",
            lambda *_: torch.tensor(math.nan, requires_grad=True),
        )
    with pytest.raises(DivergedError, match=r"step \d+ of 10: .*(finite|overflow)"):
        make_job(method=method).run()


def test_checkpoint_of_another_job_is_refused(make_job: Callable[..., Job], tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Killed):
        make_job(
            checkpoint=checkpoint, checkpoint_every=2, on_step=kill_at(3), identity={"lr": 1.0}
        ).run()
    with pytest.raises(ValueError, match=r"lr was 1.0, is now 2.0"):
        make_job(checkpoint=checkpoint, identity={"lr": 2.0})
    narrow = GeoLoRAMethod(rank=2, max_rank=2, target_modules=r".*query")
    with pytest.raises(
        ValueError,
        match=r"found another one: expected the \d+ trained tensors of this model, found none missing",
    ):
        make_job(checkpoint=checkpoint, identity={"lr": 1.0}, method=narrow)


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no model": lambda state: state.pop("model"),
    "a model that is none": lambda state: state.update(model=3),
    "an optimizer that is none": lambda state: state.update(optimizer={}),
    "no random state": lambda state: state.pop("random"),
    "another random state": lambda state: state.update(
        random={"cpu": torch.zeros(3, dtype=torch.uint8)}
    ),
    "a random state that is none": lambda state: state.update(random=[1]),
    "no losses": lambda state: state.pop("losses"),
    "losses that are none": lambda state: state.update(losses=None),
    "more losses than steps": lambda state: state.update(
        losses=torch.zeros(99), seconds=torch.zeros(99)
    ),
    "losses without times": lambda state: state.update(seconds=torch.zeros(1)),
    "more metrics than epochs": lambda state: state.update(metrics=[{"dev": 1.0}] * 9),
    "counts that are none": lambda state: state.update(exact="many"),
    "factors that are no numbers": lambda state: state["model"].update(
        {name: X * math.nan for name, X in state["model"].items() if name.endswith(".S")}
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_sealed_checkpoint_of_another_structure_is_refused_by_name(
    change: Callable[[dict[str, Any]], Any],
    finished: Path,
    make_job: Callable[..., Job],
    tmp_path: Path,
) -> None:
    """The job is done, so nothing later would notice."""
    stored, path = read_stored(finished, "checkpoint"), tmp_path / "checkpoint.safetensors"
    change(stored.state)
    write_stored(path, stored)
    with pytest.raises(
        ValueError,
        match=r"checkpoint.safetensors: expected the state of this model and its optimizer, found",
    ):
        make_job(checkpoint=path)


@pytest.fixture(scope="module")
def finished(make_job: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a job that is done."""
    path = tmp_path_factory.mktemp("finished") / "checkpoint.safetensors"
    make_job(checkpoint=path).run()
    return path


SCHEDULES = [
    (Plan("accuracy"), [1.0] * 5),
    (Plan("accuracy", schedule="linear"), [1.0, 0.8, 0.6, 0.4, 0.2]),
    (Plan("accuracy", warmup=0.4), [1 / 3, 2 / 3, 1.0, 1.0, 1.0]),
    (Plan("accuracy", warmup=0.4, schedule="linear"), [1 / 3, 2 / 3, 1.0, 2 / 3, 1 / 3]),
]


@pytest.mark.parametrize(("plan", "factors"), SCHEDULES)
def test_schedule(plan: Plan, factors: list[float]) -> None:
    assert [plan.factor(step, 5) for step in range(5)] == pytest.approx(factors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"metric": "acuracy"},
            "'accuracy' or 'matthews' or 'pearson' or 'spearman' or 'perplexity', found 'acuracy'",
        ),
        ({"schedule": "cosine"}, "'constant' or 'linear', found 'cosine'"),
        ({"epochs": 0}, "an integer >= 1, found 0"),
        ({"epochs": 1.5}, "an integer >= 1, found 1.5"),
        ({"batch_size": 0}, "an integer >= 1, found 0"),
        ({"batch_size": "8"}, "an integer >= 1, found '8'"),
        ({"warmup": 1.0}, "0 <= warmup < 1, found 1.0"),
        ({"warmup": -0.1}, "0 <= warmup < 1, found -0.1"),
        ({"warmup": None}, "0 <= warmup < 1, found None"),
        ({"seed": -1}, "an integer from 0 to 2**63 - 1, found -1"),
        ({"seed": 2**63}, "an integer from 0 to 2**63 - 1, found 9223372036854775808"),
        ({"seed": 0.5}, "an integer from 0 to 2**63 - 1, found 0.5"),
        ({"seed": True}, "an integer from 0 to 2**63 - 1, found True"),
    ],
)
def test_impossible_plans_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the whole message is compared
        Plan(**{"metric": "accuracy"} | options)
    assert str(refused.value) == f"{next(iter(options))}: expected {message}"


def test_a_seed_of_numpy_is_an_integer() -> None:
    plan = Plan("accuracy", seed=np.int64(3))  # type: ignore[arg-type]
    assert type(plan.seed) is int
    assert plan == Plan("accuracy", seed=3)
