"""`edgecl receipts`, which `edgecl receipt` is, too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli import complete
from edgecl.cli.options import DEFAULT, HomeOption, JsonOption
from edgecl.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from edgecl.types import Receipt
    from edgecl.unlearning.account import Account


def receipt(
    receipt_id: Annotated[
        str | None,
        typer.Argument(
            help="As `forget` printed it, for example r1; without one all are listed.",
            autocompletion=complete.receipts,
        ),
    ] = None,
    of: Annotated[
        str | None,
        typer.Option("--of", help="List those of what had this name: class, source or sample."),
    ] = None,
    log: Annotated[
        bool, typer.Option("--log", help="List what is no receipt, too: refusals and rollbacks.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write it: .html for people and printers, .txt, or .jsonl, which can be checked."
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", help="Check a .jsonl file, or receipts.jsonl; needs no home."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="The device's public key, 64 hex digits or a file with them."),
    ] = None,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """List what was unlearned, say in words what a receipt means, or check one from a file."""
    from edgecl.errors import UsageError

    if (check is None) != (key is None):
        raise UsageError("--check FILE and --key KEY go together: what to check, and with what")
    is_listed = of is not None or log
    if check is not None and key is not None:
        if receipt_id is not None or output is not None or is_listed:
            raise UsageError("--check says what a file holds; leave the other options out")
        _check(check, key, json=json)
    elif receipt_id is None:
        if output is not None:
            raise UsageError("which receipt? `edgecl receipts` lists them")
        _list(home, of, log=log, json=json)
    elif is_listed:
        raise UsageError("--of and --log are of the list; leave them or the number out")
    else:
        _show(receipt_id, output, home, json=json)


def _list(home: Path, of: str | None, *, log: bool, json: bool) -> None:
    from edgecl.home import Home
    from edgecl.session import open_store
    from edgecl.unlearning.account import accounts_of, log_of, moment
    from edgecl.unlearning.chain import Chain
    from edgecl.unlearning.lookup import receipts_of_name

    device = Home(home)
    with open_store(device, read_only=True) as store:
        chain = Chain(device, store)
        wanted = None if of is None else receipts_of_name(chain, of)
    accounts = accounts_of(chain.receipts)
    if wanted is not None:
        accounts = [account for account in accounts if account.receipt_id in wanted]
    others = log_of(chain.receipts)
    if json:
        print_json(
            {
                "receipts": [account.as_json() for account in accounts],
                "log": others,
                "public_key": chain.public_key,
            }
        )
        return
    _print_accounts(accounts, "nothing was unlearned" + " of this name" * (of is not None))
    if log:
        entries = [(entry["entry"], moment(entry["time"]), entry["what"]) for entry in others]
        print_table("log", ("entry", "when", "what"), entries)
    print(f"public key  {chain.public_key}")
    if others and not log:
        say(f"other entries of the chain, refusals or changes: {len(others)}; --log shows them")
    if accounts:
        say("next: `edgecl receipt ID` says in words what one means")


def _print_accounts(accounts: list[Account], nothing: str) -> None:
    from edgecl.unlearning.account import moment, subject_of

    rows = [
        (
            account.receipt_id,
            moment(account.entry.time),
            subject_of(account.entry),
            str(account.entry.mode).replace("_", " "),
            "erased" if account.is_erased else "erasure pending",
            account.checked,
        )
        for account in accounts
    ]
    if rows:
        columns = ("receipt", "unlearned", "what", "how", "files", "check")
        print_table("receipts", columns, rows)
    else:
        print(nothing)


def _show(receipt_id: str, output: Path | None, home: Path, *, json: bool) -> None:
    from edgecl.home import Home
    from edgecl.session import open_store
    from edgecl.unlearning.account import account_with
    from edgecl.unlearning.chain import Chain
    from edgecl.unlearning.words import as_text

    device = Home(home)
    with open_store(device, read_only=True) as store:
        chain = Chain(device, store)
    found = chain.find(receipt_id)
    account = account_with(chain.receipts, receipt_id)
    if output is not None:
        _write(output, account, receipt_id, chain.public_key)
    if json:
        values = _values(found, account, chain.public_key)
        print_json(values if output is None else values | {"path": str(output)})
    elif output is not None:
        print(output)
    elif account is None:
        from edgecl.unlearning.account import log_of, moment

        (entry,) = log_of([found])
        print(f"{receipt_id} is no receipt, but an entry of the log")
        print(f"{moment(entry['time'])}  {entry['what']}")
    else:
        if account.receipt_id != receipt_id:
            say(f"{receipt_id} is part of receipt {account.receipt_id}")
        print(as_text(account, chain.public_key), end="")


def _values(found: Receipt, account: Account | None, public_key: str) -> dict[str, Any]:
    """Return an entry, and all that belong to its request, as JSON values."""
    from edgecl.unlearning.chain import line_of

    entries = account.entries if account else (found,)
    later = [r for r in entries if r.body.get("of") == found.receipt_id]
    return {
        "receipt_id": found.receipt_id,
        **found.body,
        "followed_by": {r.receipt_id: _outcome(r.body) for r in later},
        "previous": found.previous,
        "digest": found.digest,
        "signature": found.signature,
        "public_key": public_key,
        "entries": [line_of(entry) for entry in entries],
    }


def _write(output: Path, account: Account | None, receipt_id: str, public_key: str) -> None:
    from edgecl.errors import RequestError, UsageError
    from edgecl.evaluation.report.receipt import receipt_page
    from edgecl.runtime.files import write_whole
    from edgecl.store.text import dump_json
    from edgecl.unlearning.chain import line_of
    from edgecl.unlearning.words import as_text

    if account is None:
        raise RequestError(f"{receipt_id} is an entry of the log, no receipt; `edgecl receipts`")
    forms = {
        ".html": lambda: receipt_page(account, public_key),
        ".txt": lambda: as_text(account, public_key),
        ".jsonl": lambda: "".join(dump_json(line_of(r)) + "\n" for r in account.entries),
    }
    form = forms.get(output.suffix.lower())
    if form is None or output.is_dir():
        raise UsageError(f"{output} is no name for a receipt; expected one in {', '.join(forms)}")
    try:
        write_whole(output, form().encode())
    except OSError as error:
        raise RequestError(
            f"{output} cannot be written ({error.strerror or error}); name a file in a folder that "
            "is there and can be written"
        ) from error


def _check(path: Path, key: str, *, json: bool) -> None:
    from edgecl.unlearning.account import accounts_of, log_of, moment, subject_of
    from edgecl.unlearning.check import check_file
    from edgecl.unlearning.words import verdict_of

    done = check_file(path, key)
    accounts, others = accounts_of(done.receipts), log_of(done.receipts)
    if json:
        print_json(
            {
                "valid": True,
                "entries": [receipt.receipt_id for receipt in done.receipts],
                "gaps_before": list(done.gaps),
                "receipts": [account.as_json() for account in accounts],
                "log": others,
            }
        )
        return
    names = ", ".join(receipt.receipt_id for receipt in done.receipts)
    print(f"valid: {names} are as this key's device signed them")
    for account in accounts:
        entry = account.entry
        print(
            f"{account.receipt_id}: {subject_of(entry)}, asked for {moment(entry.requested)}, "
            f"unlearned {moment(entry.time)}. {verdict_of(account)[0]}"
        )
    for line in others:
        print(f"{line['entry']}: {moment(line['time'])}, {line['what']}")
    if done.gaps:
        say(f"the file lacks what came before {', '.join(done.gaps)}; nothing is said about that")


def _outcome(body: dict[str, Any]) -> str:
    if body["kind"] == "erasure":
        return "erasure pending" if body["busy"] else "erasure done"
    return str(body.get("status", body["kind"]))
