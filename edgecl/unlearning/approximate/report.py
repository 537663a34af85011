"""What an approximate unlearning did to an adapter, and what speaks against taking the result."""

from __future__ import annotations

from dataclasses import dataclass

from edgecl.runtime.adapters import Adapter

_MOST_PROBE_GAP = 0.02
_MOST_RETAIN_DROP = 0.005


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """What an approximate unlearning did, without names or pictures; fit for a receipt.

    Accuracies are shares. `forget_*` and `retain_*` are those of the fixed local classifier, on the
    pictures that were used. `probe_*` is the share of the forgotten class that a ridge classifier
    finds in the features of pictures that it was not fitted on (two halves, each fitted on the
    other): a plain backbone finds much of a class that it never saw, so what counts is
    `probe_after - probe_plain`. `kept_*` is what the same probe reaches on the retained pictures.

    Args:
        method: `ssd`, `gu`, `gs-lora` or `iau`.
        settings: Its settings.
        n_forget: Forgotten pictures that were used.
        n_retain: Retained pictures that were used.
        n_parameters: Parameters of the adapter.
        n_changed: Those that are not bit for bit what they were.
        forget_before: Accuracy on the forgotten class.
        forget_after: And afterwards.
        retain_before: Accuracy on the others.
        retain_after: And afterwards.
        h_mean: Harmonic mean of the drop and the retained accuracy, percent (GS-LoRA).
        probe_plain: Probe without the adapter.
        probe_before: Probe under the given adapter.
        probe_after: Probe under the new one.
        kept_before: Probe's accuracy on retained pictures under the given adapter.
        kept_after: And under the new one.
        details: Numbers of the method.
        seconds: Time of the whole.
    """

    method: str
    settings: dict[str, float]
    n_forget: int
    n_retain: int
    n_parameters: int
    n_changed: int
    forget_before: float
    forget_after: float
    retain_before: float
    retain_after: float
    h_mean: float
    probe_plain: float
    probe_before: float
    probe_after: float
    kept_before: float
    kept_after: float
    details: dict[str, float]
    seconds: float

    def faults(self) -> tuple[str, ...]:
        """Return what speaks against taking the adapter; empty if nothing does.

        The changed adapter must differ from the given one, must not let the probe find more of the
        class than the plain backbone does by two points, and must not cost half a point of the
        retained classes.
        """
        faults = []
        if not self.n_changed:
            faults.append(f"{self.method} changed no parameter")
        if self.probe_after - self.probe_plain > _MOST_PROBE_GAP:
            faults.append(
                f"a probe finds {self.probe_after:.3f} of the class, without the adapter "
                f"{self.probe_plain:.3f}"
            )
        if self.kept_before - self.kept_after > _MOST_RETAIN_DROP:
            faults.append(
                f"accuracy on the retained classes fell from {self.kept_before:.3f} to "
                f"{self.kept_after:.3f}"
            )
        return tuple(faults)


@dataclass(frozen=True)
class UnlearnedAdapter:
    """A changed adapter and what was done to it."""

    adapter: Adapter
    report: WeightsReport
