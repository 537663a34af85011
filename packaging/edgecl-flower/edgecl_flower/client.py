"""The side of a device: hands out files of its outbox and takes files into its inbox, nothing else.

The folders are named on the device (`--node-config 'outbox="..." inbox="..."'`) and by no message.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from edgecl_flower.files import DOWN, REVOKED, STAMP, UP, Refused, fitting, listed, write
from edgecl_flower.records import files_in, put_files, texts

app = ClientApp()


def _folders(context: Context) -> tuple[Path, Path]:
    return Path(str(context.node_config["outbox"])), Path(str(context.node_config["inbox"]))


def _limit(message: Message) -> int:
    found = message.content.config_records["limit"]["bytes"]
    assert isinstance(found, int)
    return found


@app.query("collect")
def collect(message: Message, context: Context) -> Message:
    """Hand out what the carrier lacks, as much as fits, and say what the inbox has."""
    (outbox, inbox), known = _folders(context), set(texts(message.content, "known"))
    limit = _limit(message)
    lacking = [f for f in listed(outbox, UP) if f.digest not in known]
    refused = [f"{f.name} is larger than {limit:,} bytes" for f in lacking if f.size > limit]
    lacking = [f for f in lacking if f.size <= limit]
    now = fitting(lacking, limit)
    content = RecordDict()
    refused += put_files(content, outbox, now, limit)
    content["list"] = ConfigRecord(
        {
            "inbox": [f"{f.name} {f.digest}" for f in listed(inbox, DOWN)],
            "tried": [f.digest for f in now],
            "left": [f.name for f in lacking if f not in now],
            "refused": refused,
        }
    )
    return Message(content, reply_to=message)


@app.query("deliver")
def deliver(message: Message, context: Context) -> Message:
    """Take files into the inbox, and out of it what the merger has revoked."""
    inbox, refused, limit = _folders(context)[1], [], _limit(message)
    for name, data in files_in(message.content):
        try:
            write(inbox, name, data, DOWN, limit)
        except Refused as error:
            refused.append(str(error))
    gone = texts(message.content, "gone")
    for file in listed(inbox, DOWN):
        if file.name in gone and file.name.startswith(REVOKED):
            (inbox / file.name).unlink()
    if message.content["limit"]["is-last"]:
        (inbox / STAMP).touch()
    return Message(RecordDict({"list": ConfigRecord({"refused": refused})}), reply_to=message)
