"""Plug-ins by name, imported only when used. All that ships is listed at the end of this file."""

from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from matmill.errors import UnknownNameError


@dataclass
class Registry:
    """Plug-ins of one kind, stored as ``"module:attribute"`` strings.

    Outside packages add to it by an entry point in the group ``matmill.<kind>s``.
    """

    kind: str
    targets: dict[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Return all known names, built-in and installed, sorted."""
        return sorted({*self.targets, *self._installed()})

    def load(self, name: str) -> Any:  # noqa: ANN401 - a plug-in can be any object
        """Import and return the plug-in called ``name``.

        Raises:
            UnknownNameError: If nobody registered ``name``.
        """
        target = self.targets.get(name) or self._installed().get(name)
        if target is None:
            raise UnknownNameError(self.kind, name, self.names())
        module, _, attribute = target.partition(":")
        return getattr(import_module(module), attribute)

    def _installed(self) -> dict[str, str]:
        group = f"matmill.{self.kind}s"
        return {point.name: point.value for point in entry_points(group=group)}


predictors = Registry(
    "predictor",
    {
        "auto": "matmill.predict.auto:AutoPredictor",
        "boosted": "matmill.predict.tabular.predictor:BoostedPredictor",
        "cgcnn": "matmill.predict.ensemble:EnsemblePredictor",
        "cgcnn-reference": "matmill.predict.reference:ReferencePredictor",
        "composition": "matmill.predict.ensemble:CompositionPredictor",
        "median": "matmill.predict.median:MedianPredictor",
        "tabular": "matmill.predict.tabular.predictor:TabularPredictor",
        "transformer": "matmill.predict.transformer:TransformerPredictor",
        "roost": "matmill.predict.roost:RoostPredictor",
    },
)
generators = Registry(
    "generator",
    {
        "cdvae": "matmill.generate.cdvae.generator:PlainCdvae",
        "concdvae": "matmill.generate.cdvae.generator:CdvaeGenerator",
        "flow": "matmill.generate.flow:FlowGenerator",
        "random": "matmill.generate.baselines:RandomGenerator",
    },
)
potentials = Registry("potential", {"chgnet": "matmill.verify.potentials:load_chgnet"})
