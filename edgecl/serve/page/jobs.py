"""Commands that take long: answered at once with a number, told by news until they end."""

from __future__ import annotations

import time
from collections import OrderedDict
from concurrent.futures import Future
from itertools import count
from typing import Any

from starlette.requests import Request

from edgecl.device import Device
from edgecl.errors import EdgeclError, UsageError
from edgecl.serve.live import Live
from edgecl.serve.page.context import Context, Endpoint, Refusal, answer, fields_of
from edgecl.types import ForgetRequest, Kind, Receipt
from edgecl.unlearning.ask import plan_of
from edgecl.unlearning.plan_words import plan_in_words
from edgecl.unlearning.request import Unlearned

_KINDS = ("class", "sample", "source")
_MOST_REASON = 500
_MOST_KEPT = 32
_TELL_S = 0.2
_NO_WAY_BACK = "Nobody can bring it back; backups and copies elsewhere are not reached."


class Job:
    """One command that takes long; its news hold no name, since they are kept.

    Args:
        number: Its number.
        what: What it is called.
        live: Who is told.
    """

    def __init__(self, number: int, what: str, live: Live) -> None:
        self._live, self._told = live, 0.0
        self.news: dict[str, Any] = {
            "request": number, "what": what, "state": "waiting", "phase": "", "done": 0, "of": 0,
            "receipt": None, "error": None,
        }  # fmt: skip

    def say(self, phase: str, done: int, of: int) -> None:
        """Tell how far it is; often enough to see it move, and no more."""
        is_new = phase != self.news["phase"]
        self.news |= {"state": "running", "phase": phase, "done": done, "of": of}
        if is_new or done == of or time.monotonic() - self._told > _TELL_S:
            self._told = time.monotonic()
            self._live.tell("command", dict(self.news))

    def end(self, **news: Any) -> None:
        """Tell how it ended."""
        self.news |= news
        self._live.tell("command", dict(self.news))


class Jobs:
    """The newest commands that take long."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._numbers = count(1)
        self._jobs: OrderedDict[int, Job] = OrderedDict()

    def add(self, what: str) -> Job:
        """Begin one."""
        job = Job(next(self._numbers), what, self._live)
        self._jobs[job.news["request"]] = job
        while len(self._jobs) > _MOST_KEPT:
            self._jobs.popitem(last=False)
        return job

    def find(self, number: int) -> Job | None:
        """Return one by its number, unless it is long past."""
        return self._jobs.get(number)


async def forget(context: Context, request: Request) -> Any:
    """Say what would be unlearned, or unlearn it."""
    fields = await fields_of(request)
    kind, name = fields.get("kind", str), fields.get("name", str)
    if kind not in _KINDS:
        raise UsageError(f"kind is {kind[:20]!r}; expected one of {', '.join(_KINDS)}")
    reason = fields.get("reason", str, "")
    if len(reason) > _MOST_REASON:
        raise UsageError(f"a reason of {len(reason)} characters; at most {_MOST_REASON}")
    asked = ForgetRequest(name, reason, Kind(kind))
    plan = await context.read(lambda device: plan_of(device.home, asked))
    if isinstance(plan, Receipt):
        said = f"it was unlearned before, see receipt {plan.receipt_id}"
        raise Refusal(409, said, {"receipt": plan.receipt_id})
    if fields.get("dry_run", bool, False):
        return {"lines": [*plan_in_words(plan, asked), _NO_WAY_BACK], "plan": plan.as_json()}
    if fields.get("confirm", str, "") != name:
        raise UsageError("confirm is not the name; type it as it stands to go on")
    verify = fields.get("verify", bool, False)
    job = context.jobs.add("forget")

    def work(device: Device) -> Unlearned:
        context.serving.teacher.release()
        return device.forget(name, kind=asked.kind, reason=reason, verify=verify, say=job.say)

    context.serving.do("forget", work).add_done_callback(
        lambda done: _forgotten(context, job, done)
    )
    return answer(dict(job.news), 202)


def _forgotten(context: Context, job: Job, done: Future[Unlearned]) -> None:
    """Tell all pages that something is gone, and this one what became of it; in any thread."""
    live = context.serving.live
    try:
        unlearned = done.result()
    except EdgeclError as error:
        job.end(state="failed", error=str(error))
        return
    except BaseException as error:  # cancelled, or a fault: the page that asked must not wait on
        job.end(state="failed", error=f"it failed ({type(error).__name__}); see the log")
        return
    live.drop()
    live.tell("forgotten", {})
    live.tell("classes", {})
    failed = "; ".join(unlearned.faults)
    job.end(
        state="done",
        receipt=unlearned.receipt.receipt_id,
        mode=unlearned.mode.value,
        verified=unlearned.verified,
        error=f"a check failed: {failed}" if failed else None,
    )


async def job_state(context: Context, request: Request) -> dict[str, Any]:
    """How far a command is."""
    job = context.jobs.find(request.path_params["n"])
    if job is None:
        raise Refusal(404, f"there is no command {request.path_params['n']}, or it is long past")
    return dict(job.news)


ENDPOINTS = (
    Endpoint("POST", "/api/v1/forget", forget, "own"),
    Endpoint("GET", "/api/v1/requests/{n:int}", job_state),
)
