r"""
Fine-tune a network
===================

A small network is pretrained on eight of ten handwritten digits, then adapted to all ten by
low-rank updates alone. ``make finetune`` does the same with a sentence encoder of 22 million
parameters; :doc:`/results` has what was measured there.
"""

# %%
# Pretraining: digits 0 to 7, plain torch.

import matplotlib.pyplot as plt
import torch
from geolora_ref.nn import GeoLoRA, adapt, adapters, disabled, merge, parameter_count
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
X, y = torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels)
test = torch.arange(len(X)) % 5 == 0
model = nn.Sequential(
    nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
)


def train(optimizer, chosen, epochs, after=lambda: None):
    """Mini-batches of 64 over the chosen training images."""
    index = torch.nonzero(chosen & ~test).ravel()
    for _ in range(epochs):
        for batch in index[torch.randperm(len(index))].split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X[batch]), y[batch]).backward()
            optimizer.step()
            after()


def accuracy():
    """On the test images of all ten digits."""
    with torch.no_grad():
        return float((model(X[test]).argmax(1) == y[test]).float().mean())


train(torch.optim.Adam(model.parameters(), lr=2e-3), y < 8, epochs=8)
print(f"pretrained on 0 to 7: accuracy on all ten digits {accuracy():.3f}")

# %%
# ``adapt`` puts an adapter :math:`W = USV^T` with :math:`S=0` next to each linear layer and freezes
# the rest. The model still computes what it computed before, exactly.

before = model(X[test])
layers = adapt(model, "all-linear", rank=4, max_rank=16)
print("changed by", float((model(X[test]) - before).detach().abs().max()))
print({name: tuple(layer.adapter.shape) for name, layer in layers.items()})

# %%
# One optimizer, one backward pass a step. ``tau`` is the relative error that a truncation may make;
# the ranks follow.

optimizer = GeoLoRA(model, lr=0.02, tau=0.1)
ranks: dict[str, list[int]] = {name: [] for name in layers}


def watch():
    """Remember the ranks."""
    for name, layer in layers.items():
        ranks[name].append(layer.adapter.rank)


train(optimizer, torch.ones_like(y, dtype=torch.bool), epochs=12, after=watch)
print(
    f"adapted: accuracy {accuracy():.3f} "
    f"with {parameter_count(model)} numbers in the adapters"
)
for name, report in optimizer.reports.items():
    cut = f"cut off {report.discarded:.2e} of at most {report.theta:.2e}"
    print(f"  layer {name}: rank {report.rank}, fixed by {report.rank_rule}, {cut}")

# %%
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
for name, found in ranks.items():
    rows, columns = layers[name].adapter.shape
    axes.plot(
        found,
        label=f"layer {name}, {rows} x {columns}",
    )
axes.set(xlabel="step", ylabel="rank", ylim=(0, None))
axes.set_title("The rank of each layer")
axes.legend()
plt.show()

# %%
# The pretrained weights are unchanged, and the adapters can be merged into them.

with disabled(model):
    print("without adapters as before:", bool(torch.equal(model(X[test]), before)))
adapted = model(X[test]).detach()
merge(model)
print(
    "merged differs by",
    float((model(X[test]) - adapted).detach().abs().max()),
    "| adapters:",
    len(adapters(model)),
)
