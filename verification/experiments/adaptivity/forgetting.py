"""``python -m verification.experiments.adaptivity.forgetting``: what fine-tuning does to text
outside its training set (half an hour).

The design, fixed before its runs.

**Question.**  After the decoder has been tuned to Shakespeare, how much worse is it on other text, and
how far is its weight W from the pretrained W₀, *at equal training loss*?

- *Runs*: those of the campaign on the task ``shakespeare`` (SmolLM2, 200 blocks of 128 tokens, 100
  steps): LoRA of rank 4 at 0.0032, GeoLoRA with every default at 0.0063; seeds 0, 1 and 2.
- *Other text*: the first sentences of STS-B (captions, news, forums) and the sentences of SST-2 (film
  reviews), each once, in the order of their SHA-256, a line each; the first 16 blocks of 128 tokens.
- *Records*, before the first step and after every tenth: the loss on 24 fixed training blocks and on
  both other texts, in nats per token, in evaluation mode; and ‖W − W₀‖/‖W₀‖ in Frobenius norms over
  the adapted layers together.  The perplexity on the test blocks before and after.
- *Forgetting* is the loss on another text less that before the first step.
- *Equal training loss*: ℓ* is the largest, over the runs, of the least training loss that a run
  recorded, so every run reaches it.  Between records all figures are linear in the training loss; the
  first crossing of ℓ* counts.
- *Verdict*, for each other text: GeoLoRA less LoRA at ℓ*, paired by seeds, with the 95 % interval of
  Student's t.  GeoLoRA *forgets less* if the interval is below 0, *more* if it is above 0, else *no
  difference is shown*.  The distance is judged alike.  No verdict is adjusted for their number, three.
- The values after the last step are shown too, and judge nothing: there the losses differ.
- A run that diverges ends the command.  Trials saw two steps.
"""

from __future__ import annotations

import argparse
import copy
import math
import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from geolora_ref.finetune.batches import Examples
from geolora_ref.finetune.job import DivergedError, Job
from geolora_ref.finetune.methods import Method
from geolora_ref.finetune.model import Decoder, locate
from geolora_ref.finetune.plan import Plan
from geolora_ref.nn import AdaptedLayer
from geolora_ref.support.files import digest, read_json, read_regular, write_json
from geolora_ref.support.options import nonempty_path
from verification.experiments.adaptivity.other_text import (
    DECODER,
    OTHERS,
    TRAINING,
    files,
    material,
)
from verification.experiments.finetuning.design import MAIN_RANK, WARMUP
from verification.experiments.finetuning.families import MAKE
from verification.experiments.finetuning.runs import model_digest, options_of
from verification.experiments.finetuning.tasks import PLAIN_TEXT
from verification.support.command_line import integer_from
from verification.support.machine import provenance

__all__ = ["METHODS", "SEEDS", "STORED", "distance", "trained"]

SEEDS, EVERY = 3, 10
METHODS: Mapping[str, Method] = {
    family: MAKE[family](rate, MAIN_RANK, 0)  # the width of the model matters for a budget alone
    for family, rate in {"lora": 3.2e-3, "geolora": 6.3e-3}.items()
}
PLAN = Plan("perplexity", batch_size=PLAIN_TEXT.batch, schedule="linear", warmup=WARMUP)
STORED = Path(__file__).parent / "measured" / "forgetting.json"


@torch.no_grad()
def distance(encoder: torch.nn.Module) -> float:
    """‖W − W₀‖/‖W₀‖ over the layers that GeoLoRA or PEFT's LoRA has adapted; ``ValueError`` if there
    are none.
    """
    from peft.tuners.lora import Linear

    changed = whole = 0.0
    for layer in encoder.modules():
        if isinstance(layer, AdaptedLayer):
            update, base = (
                layer.alpha * layer.adapter.S,
                layer.base.weight,
            )  # U and V are orthonormal
        elif isinstance(layer, Linear):
            update, base = layer.get_delta_weight("default"), layer.get_base_layer().weight
        else:
            continue
        changed += float(torch.linalg.norm(update)) ** 2
        whole += float(torch.linalg.norm(base)) ** 2
    if not whole:
        raise ValueError(
            f"encoder: expected layers with adapters, found none in {type(encoder).__name__}"
        )
    return math.sqrt(changed / whole)


def _record(job: Job, texts: Mapping[str, Examples]) -> dict[str, float]:
    nats = {
        name: float(job.predict(text).sum() / text.targets.sum()) for name, text in texts.items()
    }
    return {"step": job.history.steps, "distance": distance(job.model.encoder)} | nats


def trained(family: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run: its records, and the test perplexity before and after; ``DivergedError`` of a job."""
    torch.set_num_threads(1)
    decoder, data, texts = material(folder)

    def seen(done: int, total: int) -> None:
        if done % EVERY == 0 or done == total:
            records.append(_record(job, texts))

    job = Job(
        lambda _: Decoder(copy.deepcopy(decoder)),
        METHODS[family],
        data,
        replace(PLAN, seed=seed),
        on_step=seen,
    )
    records, before = [_record(job, texts)], job.evaluate()["test"]
    after = job.run().metrics[-1]["test"]
    return {
        "family": family,
        "seed": seed,
        "test": [before, after],
        "parameters": job.prepared.parameters(),
        "records": records,
    }


def _known(path: Path, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs of an earlier call; ``ValueError`` if they are of other methods, data or sources."""
    stored = read_json(path) if path.exists() else {"runs": [], **facts}
    if other := [name for name in facts if name != "machine" and stored.get(name) != facts[name]]:
        raise ValueError(
            f"{path}: expected runs with the same {' and '.join(other)}, found others; --output names another file"
        )
    runs: list[dict[str, Any]] = stored["runs"]
    return runs


def main(argv: Sequence[str] | None = None) -> int:
    """Do the runs that are missing, and store each when it is done."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.experiments.adaptivity.forgetting",
        description=__doc__.partition("\n\n")[0],
    )
    parser.add_argument(
        "--data",
        type=nonempty_path,
        required=True,
        metavar="FOLDER",
        help="has shakespeare, stsb and sst2",
    )
    parser.add_argument(
        "--output",
        type=nonempty_path,
        default=STORED,
        metavar="FILE",
        help="default: the stored one",
    )
    parser.add_argument(
        "--jobs",
        type=integer_from(1),
        default=1,
        help="runs at a time, one thread each (default: 1)",
    )
    options = parser.parse_args(argv)
    wanted = [(family, seed) for seed in range(SEEDS) for family in METHODS]
    try:
        inputs = {name: digest(read_regular(path)) for name, path in files(options.data).items()}
        methods = {family: options_of(method) for family, method in METHODS.items()}
        facts = {
            "methods": methods,
            "plan": asdict(PLAN),
            "model": model_digest(locate(DECODER)),
            "data": inputs,
        } | provenance()
        runs = {(run["family"], run["seed"]): run for run in _known(options.output, facts)}
        with ProcessPoolExecutor(
            options.jobs, mp_context=multiprocessing.get_context("spawn")
        ) as pool:
            waiting = [
                pool.submit(trained, *place, options.data) for place in wanted if place not in runs
            ]
            try:
                for done in as_completed(waiting):
                    run = done.result()
                    runs[run["family"], run["seed"]] = run
                    write_json(
                        options.output,
                        {"runs": [runs[place] for place in wanted if place in runs], **facts},
                        indent=None,
                    )
                    first, last = run["records"][0], run["records"][-1]
                    shown = ", ".join(
                        f"{name} {first[name]:.3f} to {last[name]:.3f}"
                        for name in (TRAINING, *OTHERS, "distance")
                    )
                    print(
                        f"{len(runs)} of {len(wanted)}: {run['family']}, seed {run['seed']}: {shown}",
                        flush=True,
                    )
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    except (ValueError, OSError, DivergedError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
