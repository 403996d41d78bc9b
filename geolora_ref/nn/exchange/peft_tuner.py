"""GeoLoRA as a method of PEFT: ``get_peft_model(model, GeoLoraConfig(...))``.

Import this module once, also before ``PeftModel.from_pretrained``: the import registers the method
under the name GEOLORA.  Every chosen layer becomes a :class:`GeoLoraLayer`, which keeps one
:class:`LowRankAdapter` for each of PEFT's adapters.  The active adapter is exposed as an ordinary
:class:`AdaptedLayer` on the same base and factors.  This layer does all the computing, and
:func:`geolora_ref.nn.adapters` lists it, so that the optimizer finds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from geolora_ref import checks
from geolora_ref.lowrank import LowRank
from geolora_ref.nn.layers.adapt import (
    adapter_for,
    adapters,
    refuse_compiled,
    refuse_several_places,
    refuse_shared,
    refuse_unseen_dropout,
    say_what_stays,
)
from geolora_ref.nn.layers.adapted import (
    AdaptedLayer,
    Alpha,
    Convolution,
    Fused,
    alpha_of,
    check_fused,
    is_transposed_linear,
)
from geolora_ref.nn.layers.adapter import GradientRoute, LowRankAdapter
from geolora_ref.nn.layers.lora_words import IN_CONFIG, refuse_words_of_lora
from geolora_ref.nn.optim.geolora import GeoLoRA
from geolora_ref.support.extras import noting_how_to_install
from geolora_ref.support.files import write_atomically
from geolora_ref.training import DEFAULT_LEARNING_RATE

with noting_how_to_install():
    from peft import PeftConfig, PeftType
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, register_peft_method

__all__ = ["GeoLoraConfig", "GeoLoraLayer", "GeoLoraModel", "create_geolora_optimizer"]


def _known_to_peft(name: str) -> PeftType:
    """The member of this name in PEFT's enumeration of methods, added if it is missing.

    ``register_peft_method`` is open to other packages, but wants a member of an enumeration that is closed.
    """
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_ = member._value_ = name
        setattr(PeftType, name, member)  # Python 3.12 and later do not look names up in the map
        PeftType._member_map_[name] = PeftType._value2member_map_[name] = member
        PeftType._member_names_.append(name)
    return PeftType(name)


GEOLORA = _known_to_peft("GEOLORA")
FactorDtype = Literal["float32", "float64"]
START = """\
The adapter is one of GeoLoRA. The package `geolora_ref` has to be installed, and its method imported before PEFT loads:

```python
import geolora_ref.nn.exchange.peft_tuner  # makes the method GEOLORA known to PEFT
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "this folder")
```"""
"""The paragraph of a saved model card about loading."""


@dataclass
class GeoLoraConfig(PeftConfig):
    """The options by which PEFT puts GeoLoRA's adapters into a model.

    ``rank``, ``max_rank``, ``alpha``, ``dropout``, ``gradients`` and ``fused`` are those of
    :func:`geolora_ref.nn.adapt`. ``rank`` is the rank at the start of training; a saved adapter
    stores its ranks in the shapes of its factors. ``layers_to_transform`` and ``layers_pattern``
    are those of PEFT's other methods, with a list of names.

    Raises ``ValueError`` for options out of range, and for ``layers_to_transform`` with a regular
    expression; ``TypeError`` for an unknown option, which for options of LoraConfig names the
    counterpart here.
    """

    rank: int = 8
    max_rank: int | None = None
    alpha: Alpha = "rms"
    dropout: float = 0.0
    gradients: GradientRoute = "projected"
    fused: Fused = "auto"
    dtype: FactorDtype | None = None
    """The factors' dtype by name, because a configuration is saved as text; None as in ``adapt``."""
    target_modules: list[str] | set[str] | str | None = "all-linear"
    """"all-linear", a regular expression for whole names, or ends of names; None for the modules
    that PEFT lists for the model's architecture.
    """
    exclude_modules: list[str] | str | None = None
    """Modules that are left out, in the same form."""
    modules_to_save: list[str] | None = None
    """Modules that are trained and saved as a whole (heads)."""
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    """Rows of embeddings that are trained as they are, as in LoraConfig; a list means the input
    embedding.
    """
    init_weights: bool = True
    """False draws S at random, so that a new adapter changes the outputs (for tests); True starts
    at S = 0.
    """

    def __new__(cls, *_: Any, **options: Any) -> GeoLoraConfig:
        """Refuse options of LoraConfig with a hint, before the generated ``__init__`` refuses them
        without one.
        """
        refuse_words_of_lora("GeoLoraConfig", options, IN_CONFIG)
        new: GeoLoraConfig = super().__new__(cls)
        return new

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = GEOLORA
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        checks.integer("rank", self.rank, 1)
        if self.max_rank is not None:
            checks.integer("max_rank", self.max_rank, 1)
        if self.max_rank is not None and self.rank > self.max_rank:
            raise ValueError(
                f"rank: expected rank <= max_rank, found {self.rank}, max_rank {self.max_rank}"
            )
        self.alpha = alpha_of(self.alpha)
        checks.below_one("dropout", self.dropout)
        check_fused(self.fused)
        if self.dtype is not None:
            checks.one_of("dtype", self.dtype, get_args(FactorDtype))
        if isinstance(self.modules_to_save, str):
            raise ValueError(
                f"modules_to_save: expected a sequence of names, found the string {self.modules_to_save!r}"
            )
        if (
            isinstance(self.target_modules, str) and self.layers_to_transform is not None
        ):  # PEFT would take all layers
            raise ValueError(
                f"layers_to_transform: expected target_modules as a list of names with it, found {self.target_modules!r}"
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern: expected layers_to_transform with it, found none")

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Like PEFT's method; a model card that PEFT has written there says how the adapter is loaded."""
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        for card in (
            folder / "README.md",
            folder.parent / "README.md",
        ):  # PEFT writes one card for all adapters
            if card.is_file() and "library_name: peft" in (text := card.read_text("utf-8")):
                write_atomically(card, _with_a_start(text))
                return


def _with_a_start(card: str) -> str:
    """A model card with :data:`START` under the heading that PEFT's template has for it, or at its end; once."""
    if START in card:
        return card
    heading, nothing = "## How to Get Started with the Model\n", "[More Information Needed]"
    before, found, after = card.partition(heading)
    words, empty, rest = after.partition(nothing)
    if found and empty and "\n#" not in words:
        return f"{before}{heading}{words}{START}{rest}"
    return f"{card.rstrip()}\n\n{heading}\n{START}\n"


class NamedLayer(AdaptedLayer):
    """An adapted layer whose base and factors belong to a :class:`GeoLoraLayer` and are saved under
    that layer's names.

    ``merged_adapters`` : names of the merged adapters in order, a list shared by all adapters of a
    base.  Each merged adapter keeps the weight from before its own merge, so the last one must be
    unmerged first.
    """

    def __init__(
        self,
        name: str,
        merged_adapters: list[str],
        base: nn.Module,
        adapter: LowRankAdapter,
        **options: Any,
    ) -> None:
        super().__init__(base, adapter, **options)
        self.name, self.merged_adapters = name, merged_adapters

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("base", "adapter"):
            object.__setattr__(
                self, name, value
            )  # not registered as submodules: their parameters would appear twice
        else:
            super().__setattr__(name, value)

    @property
    def base_is_merged(self) -> bool:
        """Return whether base.weight contains any adapter of the base."""
        return bool(self.merged_adapters)

    def merge(self) -> None:
        """Like :meth:`AdaptedLayer.merge`, and enter the name into ``merged_adapters``."""
        super().merge()
        self.merged_adapters.append(self.name)

    def unmerge(self) -> None:
        """Like :meth:`AdaptedLayer.unmerge`; ``RuntimeError`` also if another adapter has been
        merged since.
        """
        if self.merged and self.merged_adapters[-1] != self.name:
            raise RuntimeError(
                f"unmerge: expected {self.merged_adapters[-1]!r}, merged last, to go first, found {self.name!r}"
            )
        super().unmerge()
        self.merged_adapters.remove(self.name)


class GeoLoraLayer(nn.Module, BaseTunerLayer):
    """A frozen layer with the adapters that PEFT has given it, of which at most one is active.

    ``geolora_adapter`` holds them by name; ``geolora_active`` is the active one as an
    :class:`AdaptedLayer`, or None.  A ``state_dict`` holds base and adapters unmerged, even while
    some are merged; loading the base or a merged adapter unmerges.
    """

    adapter_layer_names = ("geolora_adapter",)
    other_param_names = ("geolora_layers",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.geolora_adapter = nn.ModuleDict()
        self.geolora_layers: dict[str, NamedLayer] = {}
        self.geolora_active: NamedLayer | None = None
        self.merged_adapters = []
        self.register_state_dict_post_hook(_state_of_the_unmerged)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_unmerged_for_a_state)  # type: ignore[no-untyped-call]
        self.train(base_layer.training)

    def add(self, adapter_name: str, config: GeoLoraConfig) -> None:
        """Add a new adapter; on the meta device, without values, where PEFT is about to load them
        (``low_cpu_mem_usage``).
        """
        dtype = None if config.dtype is None else getattr(torch, config.dtype)
        adapter = adapter_for(
            self.base_layer, config.rank, config.max_rank, config.gradients, dtype, None
        )
        if not (config.init_weights or adapter.S.is_meta):
            U, S, V = adapter.factors()
            adapter.assign(LowRank(U, torch.randn_like(S) / len(S) ** 0.5, V))
        options = {name: getattr(config, name) for name in ("alpha", "dropout", "fused")}
        (m, n), base = adapter.shape, self.base_layer
        channels = (
            (base.in_channels, base.out_channels) if isinstance(base, Convolution) else (n, m)
        )
        self.in_features, self.out_features = channels  # attributes of PEFT's layers
        named = NamedLayer(adapter_name, self.merged_adapters, self.base_layer, adapter, **options)
        self.geolora_layers[adapter_name] = named
        self.geolora_adapter[adapter_name] = adapter

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Make this adapter the active one.  Raises ``ValueError`` for more than one: updates add
        up in ``merge`` alone.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        if len(names) > 1:
            raise ValueError(
                f"expected one active adapter, found {', '.join(names)}; adapters can be merged one after the other"
            )
        super().set_adapter(names, inference_mode=inference_mode)
        self.geolora_active = self.geolora_layers.get(names[0]) if names else None
        if self.geolora_active is not None:
            self.geolora_active.train(self.training)

    def _in_effect(self) -> NamedLayer | None:
        """The adapter that acts next to the base; None while adapters are merged or disabled.
        Disabling unmerges first.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        active = None if self.merged or self.disable_adapters else self.geolora_active
        if active is not None and getattr(
            self, "_is_replica", False
        ):  # nn.DataParallel copied submodules alone
            active.base, active.adapter = (
                self.base_layer,
                cast(LowRankAdapter, self.geolora_adapter[active.name]),
            )
        return active

    @property
    def weight(self) -> Tensor:
        """The effective weight, for callers that read it instead of calling the layer."""
        active = self._in_effect()
        return cast(Tensor, self.base_layer.weight) if active is None else active.weight

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The active adapter's output; the base's while adapters are merged or disabled."""
        layer = self._in_effect() or self.base_layer
        return cast(Tensor, layer(x, *args, **kwargs))

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the active adapter, or the adapters of ``adapter_names``, to the base weight.

        Raises ``RuntimeError`` like :meth:`AdaptedLayer.merge`, and with ``safe_merge``
        ``ValueError`` for non-finite factors; nothing is merged then.
        """
        names = check_adapters_to_merge(self, adapter_names)
        self.refuse_unmergeable(names, safe_merge)
        for name in names:
            if name in self.geolora_layers:
                self.geolora_layers[name].merge()

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """For ``peft.convert_to_lora``, which converts linear layers alone; exact if its rank is at
        least the adapter's.
        """
        return isinstance(self, GeoLoraLinear)

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """alpha·W of an adapter, arranged like the weight of the base."""
        layer = self.geolora_layers[adapter_name]
        return layer.alpha * layer.layout.weight(layer.adapter.full())

    def refuse_unmergeable(self, adapter_names: list[str], safe_merge: bool) -> None:
        """Raise the errors of :meth:`merge` for these adapters, without changing anything."""
        for name in adapter_names:
            layer = self.geolora_layers.get(name)
            if layer is None:
                continue
            layer.check_mergeable()
            if safe_merge and not bool(torch.isfinite(layer.adapter.full()).all()):
                broken = f"NaNs detected in the merged weights. The adapter {name} seems to be broken"  # as PEFT says it
                raise ValueError(
                    f"{broken}: expected finite factors, found others; it is not merged"
                )

    def unmerge(self) -> None:
        """Put the base weight back, bit for bit."""
        for name in reversed(list(self.merged_adapters)):
            self.geolora_layers[name].unmerge()

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """Move to the device, but keep the dtype: bases do not stay orthonormal in half precision."""
        self.geolora_adapter[adapter_name].to(
            cast(Tensor, self.base_layer.weight).device if device is None else device
        )


def _state_of_the_unmerged(
    layer: GeoLoraLayer, state: dict[str, Any], prefix: str, metadata: dict[str, Any]
) -> None:
    """Put the original weight into a state, which would otherwise count W twice; the adapter merged
    first has kept it.
    """
    if layer.merged and f"{prefix}base_layer.weight" in state:
        first = layer.geolora_layers[layer.merged_adapters[0]]
        if first._unmerged_weight is not None:
            state[f"{prefix}base_layer.weight"] = first._unmerged_weight.to(
                first.base_weight
            )  # where the module was moved to


def _unmerged_for_a_state(layer: GeoLoraLayer, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Unmerge before a state of the base or of a merged adapter is loaded; other adapters can be
    loaded while some are merged.
    """
    parts = ("base_layer.", *(f"geolora_adapter.{name}." for name in layer.merged_adapters))
    if layer.merged and any(
        key.startswith(tuple(prefix + part for part in parts)) for key in state
    ):
        layer.unmerge()


class GeoLoraLinear(GeoLoraLayer):
    """A :class:`GeoLoraLayer` on a linear base: PEFT's "all-linear" for a second adapter looks for
    Linear in the class name.
    """


class GeoLoraModel(BaseTuner):
    """The PEFT tuner: it puts GeoLoRA's adapters into a model; see :class:`GeoLoraConfig`."""

    prefix = "geolora_"
    tuner_layer_cls = GeoLoraLayer
    target_module_mapping: Any = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def _create_and_replace(
        self,
        peft_config: GeoLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target if isinstance(target, GeoLoraLayer) else _layer_kind(target)(target)
        with checks.naming(current_key):
            layer.add(adapter_name, peft_config)
            refuse_shared(self.model, layer.base_layer)
            refuse_compiled(self.model, target)
            refuse_several_places(self.model, target)
            refuse_unseen_dropout(self.model, target, peft_config.dropout)
        layer.set_adapter(layer.active_adapters if layer is target else self.active_adapters)
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        """Replace a module without PEFT's copying of weights: the new layer reads the weight of its
        base.
        """
        setattr(parent, child_name, new_module)

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Like PEFT's method, but on an error the layers changed so far are restored."""
        had_it = {
            layer
            for layer in model.modules()
            if isinstance(layer, GeoLoraLayer) and adapter_name in layer.geolora_layers
        }
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except BaseException:
            for name, layer in list(model.named_modules()):
                if (
                    isinstance(layer, GeoLoraLayer)
                    and layer not in had_it
                    and adapter_name in layer.geolora_layers
                ):
                    layer.delete_adapter(adapter_name)
                    if not layer.geolora_layers:
                        model.set_submodule(name, layer.base_layer)
            raise

    def _prepare_model(self, peft_config: GeoLoraConfig, model: nn.Module) -> None:
        """Raise ``ValueError`` for layers of :func:`geolora_ref.nn.adapt`, whose bases would be
        adapted, before any change.
        """
        found = [name for name, layer in adapters(model).items() if type(layer) is AdaptedLayer]
        if found:
            raise ValueError(
                f"model: expected one without adapters of geolora_ref.nn.adapt, found {found[0]!r}"
            )
        super()._prepare_model(peft_config, model)

    def _prepare_adapter_config(
        self, peft_config: GeoLoraConfig, model_config: dict[str, Any]
    ) -> GeoLoraConfig:
        """Like PEFT's method, with a warning about stacked parameters that "all-linear" leaves alone."""
        if peft_config.target_modules == "all-linear":
            say_what_stays(self.model)
        prepared: GeoLoraConfig = super()._prepare_adapter_config(peft_config, model_config)
        return prepared

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Refuse a different adapter for each row of a batch: PEFT would silently ignore the choice."""
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                "adapter_names: expected none (set_adapter chooses one for the whole batch), found one for each row"
            )
        yield

    def add_weighted_adapter(self, *_: Any, **__: Any) -> None:
        """Refused with ``ValueError``: sums of updates have no bases of their own."""
        raise ValueError(
            "add_weighted_adapter: expected adapters that are merged one after the other (merge_adapter), found a sum"
        )

    def merge_adapter(
        self, adapter_names: list[str] | None = None, safe_merge: bool = False
    ) -> None:
        """Like PEFT's method, for all layers or none: the errors of :meth:`GeoLoraLayer.merge` come
        before the first merge.
        """
        self._refuse_unmergeable(adapter_names, safe_merge)
        super().merge_adapter(adapter_names, safe_merge)

    def merge_and_unload(
        self,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        """Merge like :meth:`merge_adapter`, and return the model without the adapters."""
        self._refuse_unmergeable(adapter_names, safe_merge)
        return super().merge_and_unload(progressbar, safe_merge, adapter_names)

    def _refuse_unmergeable(self, adapter_names: list[str] | None, safe_merge: bool) -> None:
        for name, module in self.model.named_modules():
            if isinstance(module, GeoLoraLayer):
                with checks.naming(name, RuntimeError):
                    module.refuse_unmergeable(adapter_names or module.active_adapters, safe_merge)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Make this adapter the active one.  Raises ``ValueError`` for more than one, and changes
        nothing then.
        """
        if not isinstance(adapter_name, str) and len(adapter_name) > 1:
            raise ValueError(f"expected one active adapter, found {', '.join(adapter_name)}")
        super().set_adapter(adapter_name, inference_mode=inference_mode)


def create_geolora_optimizer(
    model: nn.Module, lr: float = DEFAULT_LEARNING_RATE, **options: Any
) -> GeoLoRA:
    """The optimizer of a PEFT model's active adapter and heads, named like PEFT's own optimizer factories.

    Equivalent to :class:`geolora_ref.nn.GeoLoRA`, with the same ``options`` and errors.
    """
    return GeoLoRA(model, lr, **options)


def _layer_kind(base_layer: nn.Module) -> type[GeoLoraLayer]:
    return (
        GeoLoraLinear
        if isinstance(base_layer, nn.Linear) or is_transposed_linear(base_layer)
        else GeoLoraLayer
    )


register_peft_method(name="geolora", config_cls=GeoLoraConfig, model_cls=GeoLoraModel)
