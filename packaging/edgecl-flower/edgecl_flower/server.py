"""The side of the merger: moves files between its carrier folder and every device that is there.

One run: each device that comes within `wait-s` is asked for what the carrier lacks, and is sent
what it lacks itself. The merger works on the carrier folder, before or after.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from edgecl_flower.files import DOWN, UP, Refused, fitting, listed, write
from edgecl_flower.records import files_in, put_files, texts

app = ServerApp()
log = logging.getLogger("flwr")
# Devices that are served at a time: their files are in memory together.
_AT_ONCE = 8
# Messages each way in one exchange with a device.
_MOST_STEPS = 64
# Of what a device refused.
_MOST_TOLD = 20


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Serve every device once."""
    config = context.run_config
    carrier, n_nodes = Path(str(config["carrier"])), int(config["nodes"])
    exchange = Exchange(grid, carrier, int(config["limit-mb"]) << 20, float(config["answer-s"]))
    if not carrier.is_dir():
        raise NotADirectoryError(f"there is no carrier folder {carrier}")
    seen: set[int] = set()
    ends = time.monotonic() + float(config["wait-s"])
    while time.monotonic() < ends and not (n_nodes and len(seen) >= n_nodes):
        new = sorted(set(grid.get_node_ids()) - seen)[:_AT_ONCE]
        if new:
            seen.update(new)
            exchange.serve(new)
        else:
            time.sleep(1)
    log.info("exchange ended: %d of %d devices served", exchange.n_served, len(seen))


class Exchange:
    """Files between a carrier folder and devices; what a device says is not trusted.

    Args:
        grid: Flower's way to the devices.
        carrier: The merger's carrier folder.
        limit: Bytes of a file, and of all files in one message.
        seconds: How long a device may take for one answer.
    """

    def __init__(self, grid: Grid, carrier: Path, limit: int, seconds: float) -> None:
        self.grid, self.carrier, self.limit, self.seconds = grid, carrier, limit, seconds
        self.n_served = 0

    def serve(self, nodes: list[int]) -> None:
        """Exchange files with some devices; what fails is named and leaves out that device only."""
        inboxes = self._collect(nodes)
        for node in set(nodes) - set(inboxes):
            log.warning("device %d was not served", node)
        self._deliver(inboxes)

    def _collect(self, nodes: list[int]) -> dict[int, list[str]]:
        """Take what the carrier lacks; return what each device's inbox has."""
        inboxes: dict[int, list[str]] = {}
        known = {node: {f.digest for f in listed(self.carrier, UP)} for node in nodes}
        for _ in range(_MOST_STEPS):
            contents = {}
            for node in known:
                record = ConfigRecord({"known": sorted(known[node])})
                contents[node] = self._message(list=record)
            known_before, known = known, {}
            for node, content in self._ask("collect", contents).items():
                try:
                    left, tried = texts(content, "left"), texts(content, "tried")
                    inboxes[node] = texts(content, "inbox")
                    self._take(node, content)
                except Refused as error:
                    log.warning("device %d: %s", node, error)
                    inboxes.pop(node, None)
                    continue
                if left and not known_before[node].issuperset(tried):
                    known[node] = known_before[node] | set(tried)
            if not known:
                break
        return inboxes

    def _take(self, node: int, content: RecordDict) -> None:
        """Write what a device sent, as far as it has the form of the layout."""
        n_taken = 0
        for name, data in files_in(content):
            try:
                write(self.carrier, name, data, UP, self.limit)
                n_taken += 1
            except Refused as error:
                log.warning("device %d: %s", node, error)
        self._tell(node, content)
        log.info("device %d: %d files taken", node, n_taken)

    def _deliver(self, inboxes: dict[int, list[str]]) -> None:
        """Send each device what its inbox lacks, and say what is there no more."""
        ours = listed(self.carrier, DOWN)
        names = {f.name for f in ours}
        left = {n: [f for f in ours if f"{f.name} {f.digest}" not in i] for n, i in inboxes.items()}
        while left:
            contents, sent = {}, {}
            for node, files in left.items():
                sent[node] = fitting(files, self.limit)
                gone = {text.partition(" ")[0] for text in inboxes[node]} - names
                left[node] = [f for f in files if f not in sent[node]]
                content = self._message(
                    len(left[node]) == 0, list=ConfigRecord({"gone": sorted(gone)})
                )
                for text in put_files(content, self.carrier, sent[node], self.limit):
                    log.warning("not sent: %s", text)
                contents[node] = content
            answers = self._ask("deliver", contents)
            for node, content in answers.items():
                self._tell(node, content)
                log.info("device %d: %d files sent", node, len(sent[node]))
            self.n_served += sum(not left[node] for node in answers)
            left = {node: files for node, files in left.items() if files and node in answers}

    def _message(self, is_last: bool = False, **records: ConfigRecord) -> RecordDict:
        record = ConfigRecord({"bytes": self.limit, "is-last": is_last})
        return RecordDict({"limit": record, **records})

    def _ask(self, action: str, contents: dict[int, RecordDict]) -> dict[int, RecordDict]:
        """Send each device its message and return the answers that came; others are named."""
        messages = [
            Message(content, dst_node_id=node, message_type=f"query.{action}", ttl=self.seconds)
            for node, content in contents.items()
        ]
        answers = {}
        for reply in self.grid.send_and_receive(messages, timeout=self.seconds):
            node = reply.metadata.src_node_id
            if reply.has_error():
                log.warning("device %d failed to %s: %.200a", node, action, reply.error.reason)
            elif node in contents:
                answers[node] = reply.content
        for node in set(contents) - set(answers):
            log.warning("device %d gave no answer to %s", node, action)
        return answers

    def _tell(self, node: int, content: RecordDict) -> None:
        """Log what a device refused, the first of it."""
        try:
            refused = texts(content, "refused")
        except Refused as error:
            refused = [str(error)]
        for text in refused[:_MOST_TOLD]:
            log.warning("device %d says: %.200a", node, text)
        if len(refused) > _MOST_TOLD:
            log.warning("device %d says %d things more", node, len(refused) - _MOST_TOLD)
