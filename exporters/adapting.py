"""What a consolidation needs beside a session: the backbone in torch, an engine for adapters."""

from __future__ import annotations

from collections.abc import Callable

from edgecl.adapters.recipes import recipe_of
from edgecl.backbones import Backbone, load_backbone_of
from edgecl.session import Session


def backbone_to_train(
    session: Session, weights: str | None = None, *, tell: Callable[[str], None] = lambda text: None
) -> Backbone:
    """Load the backbone of an open home, and make the engine that its recipe needs if it lacks one.

    Args:
        session: The home, whose lock the caller holds.
        weights: The file that the home was made from, if it was a file.
        tell: Told what is going on.

    Raises:
        ProviderError: The named provider is not in use.
        IntegrityError: Another backbone than the home's.
        MissingPackageError: The extra `torch` is not installed.
    """
    home = session.home
    session.check_provider()  # one that fails is told before torch is loaded
    from edgecl.consolidation.plan import check_backbone

    from .onnx import add_adapter_inputs

    tell(f"loading {home.manifest.backbone}")
    backbone = load_backbone_of(home.manifest, weights=weights)
    check_backbone(home, backbone)
    active = recipe_of(home.config.consolidation.recipe).active
    if not home.has_adapters:
        tell("exporting an engine that takes adapters (about 25 s)")
        add_adapter_inputs(home, backbone, active=active)
    elif active and not home.engine_manifest(has_adapters=True).adapter_active:
        tell("exporting an engine whose adapters have gates (about 25 s)")
        add_adapter_inputs(home, backbone, rank=home.adapter_rank, active=active)
    return backbone
