"""Unlearning in the weights of an adapter: what nothing here shows to be removed (decision 0011).

Beside the exact path, which drops the adapters that saw a class and reads without this. A home that
cannot spare them may change them in place: `changed.py` does it in a home, `weights.py` to one
adapter, by the published steps of `steps.py` on the losses of `local.py`; `report.py` says what was
done. Receipts call it `approximate`, and the audit holds it to gates of its own.
"""
