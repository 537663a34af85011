"""Exports of what was frozen or learned: ONNX, and the check that an export is faithful."""
