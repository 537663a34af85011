"""What the help of every command shows beside its own text: where it belongs, and examples.

Two tables, so that a command without an example is seen (tests/edgecl/test_cli_help.py).
"""

from __future__ import annotations

PANELS = {
    "Start": ("demo", "init", "config", "doctor"),
    "Teach": ("serve", "train-stream", "import", "review", "consolidate"),
    "Look": ("predict", "evaluate", "status", "report", "bench"),
    "Mend": ("samples", "relabel", "merge-classes", "undo", "rename"),
    "Keep": ("snapshot", "snapshots", "rollback", "changes", "verify"),
    "Unlearn": ("forget", "receipts"),
    "Ship": ("export",),
    "Fleet": ("fleet", "statistics", "merge"),
}
"""Commands of the line by what they are for, in the order of the help."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "": (
        "edgecl train-stream parts/        learn a folder with a sub-folder a class",
        "edgecl predict picture.jpg        what is it?",
        "edgecl report                     does it still know what it knew?",
        "edgecl forget class washer        unlearn a class for good, with a receipt",
    ),
    "init": (
        "edgecl init                       a home in ./edgecl-home",
        "edgecl init --encrypt -H sealed   with a key for every class",
        "edgecl init --head key-value --keys photos/",
    ),
    "serve": (
        "edgecl serve                      a page that teaches by the browser's camera",
        "edgecl serve camera:0 'rtsp://gate/1?crop=10%,20%,30%,40%'",
        "edgecl serve --set-password own   needed to be reached from elsewhere",
        "edgecl serve --listen 0.0.0.0:8765 --tls-cert cert.pem --tls-key key.pem",
    ),
    "train-stream": (
        "edgecl train-stream parts/        a folder with a sub-folder a class",
        "edgecl train-stream cups/ -l cup    a folder of one class",
        "edgecl train-stream camera:0      live: keys name what the camera sees",
        "edgecl train-stream parts.csv -n 500 --shuffle",
        "edgecl train-stream synthetic: -n 200    a test pattern, without a camera",
    ),
    "import": (
        "edgecl import clips/gate    of Frigate, COCO, jetson-inference and others",
        "edgecl import faces.zip --dry-run    say what would be learned",
    ),
    "predict": (
        "edgecl predict picture.jpg",
        "edgecl predict *.jpg --top 3",
        "edgecl predict camera:0 --unknown",
        "edgecl predict picture.jpg --explain    which kept samples are nearest",
        "edgecl predict -b bundle/ picture.jpg    without a home",
    ),
    "evaluate": (
        "edgecl evaluate parts-test/       a folder with a sub-folder a class",
        "edgecl evaluate film.mp4 -l cup -n 200",
    ),
    "consolidate": (
        "edgecl consolidate",
        "edgecl consolidate --minutes 10   as much as fits",
    ),
    "bench": (
        "edgecl bench",
        "edgecl bench --seconds 5 -b bundle/",
    ),
    "export": (
        "edgecl export onnx -o bundle/     what predicts on another device",
        "edgecl export dataset -o pictures/",
        "edgecl export --rebuild-stale     after something was unlearned",
    ),
    "export onnx": (
        "edgecl export onnx -o bundle/",
        "edgecl export onnx -o small/ --precision int8",
        "edgecl export onnx -o bundle/ --fused    one file, picture to scores",
    ),
    "export tensorrt": ("edgecl export tensorrt -o bundle-gpu/ --precision fp16",),
    "export dataset": ("edgecl export dataset -o pictures/",),
    "export contribution": ("edgecl export contribution -o /media/usb/press-2.efc",),
    "statistics": (
        "edgecl statistics parts/ -o parts.efc    what a head needs of a folder",
        "edgecl statistics big/ --shard 17/512 -o s17.efc    of a part of it",
    ),
    "merge": (
        "edgecl merge press-2.efc          what another device learned, added exactly",
        "edgecl merge /media/usb/*.efc     of many, in any order",
    ),
    "forget": (
        "edgecl forget class washer --dry-run    what would be removed",
        "edgecl forget class washer",
        "edgecl forget source camera:0",
        "edgecl forget --older-than 30d          retention",
    ),
    "forget class": (
        "edgecl forget class washer --dry-run    what would be removed",
        'edgecl forget class washer --reason "request 2026-17" --verify',
        "edgecl forget class washer --fleet    and ask that all devices of its fleet do",
    ),
    "forget sample": ("edgecl forget sample 1204",),
    "forget source": (
        "edgecl forget source camera:0    as `edgecl status` names it",
        "edgecl forget source fleet:press-2    what `merge` took in of a device",
    ),
    "forget pending": ("edgecl forget pending",),
    "receipts": (
        "edgecl receipts                   all of them",
        "edgecl receipts r1                one, checked, in words",
        "edgecl receipts r1 -o r1.html     as a page to print",
    ),
    "samples": ("edgecl samples list               what is kept, the newest first",),
    "samples list": (
        "edgecl samples list --class washer",
        "edgecl samples list --since 2d --pictures look/",
    ),
    "samples hold-out": ("edgecl samples hold-out 12 13     two learned samples are for testing",),
    "relabel": ("edgecl relabel 12 13 washer       two samples are washers",),
    "merge-classes": ("edgecl merge-classes mug cup      what was a mug is a cup from now on",),
    "undo": ("edgecl undo                       take the last run back",),
    "rename": ('edgecl rename washer "brass ring"',),
    "review": (
        "edgecl review list                what waits, the most novel first",
        "edgecl review label 12 13 washer",
    ),
    "review list": (
        "edgecl review list",
        "edgecl review list --pictures waiting/",
        "edgecl review list --by usefulness    what tells most when it gets a name",
    ),
    "review mistakes": (
        "edgecl review mistakes            what the other samples contradict",
        "edgecl review mistakes --class washer --pictures look/",
    ),
    "review confirm": ("edgecl review confirm 12 13       they are what they were taught as",),
    "review label": ("edgecl review label 12 13 washer    two frames are washers",),
    "review drop": (
        "edgecl review drop 14",
        "edgecl review drop --all",
    ),
    "snapshot": ("edgecl snapshot                   before you try something",),
    "snapshots": ("edgecl snapshots",),
    "rollback": (
        "edgecl rollback s1                as `edgecl snapshots` names it",
        "edgecl rollback c12               takes one change back",
    ),
    "changes": (
        "edgecl changes                    what was done, and what it did",
        "edgecl changes c12                one of them, in words",
    ),
    "report": (
        "edgecl report                     edgecl-report.html, for the browser",
        "edgecl report -o line-3.html",
    ),
    "config": ("edgecl config show", "edgecl config set store.capacity_samples 500"),
    "config show": ("edgecl config show                what is set, and by whom",),
    "config set": (
        "edgecl config set store.capacity_samples 500",
        "edgecl config set source.gate.url rtsp://10.0.0.9/live",
        "edgecl config set source.gate.crop 10%,20%,30%,40%",
    ),
    "config check": ("edgecl config check",),
    "status": (
        "edgecl status",
        "edgecl status --json",
    ),
    "doctor": ("edgecl doctor",),
    "verify": ("edgecl verify",),
    "demo": (
        "edgecl demo",
        "edgecl demo --keep demo/          keep the home and the pictures",
    ),
    "fleet": (
        "edgecl fleet join /media/usb/fleet.json    on a device",
        "edgecl fleet add press-1 KEY               where the fleet was made",
        "edgecl fleet sync --carrier /media/usb     on a device, again and again",
        "edgecl fleet forget class washer           reaches all devices",
    ),
    "fleet init": (
        "edgecl fleet init --fleet plant --feature-map-of edgecl-home",
        "edgecl fleet init --feature-map-of edgecl-home --members-may-order",
    ),
    "fleet join": (
        "edgecl fleet join /media/usb/fleet.json",
        "edgecl fleet join /media/usb/fleet.json --again    after a backup was put back",
    ),
    "fleet add": ("edgecl fleet add press-1 KEY --fleet plant",),
    "fleet export": ("edgecl fleet export -o /media/usb",),
    "fleet sync": ("edgecl fleet sync --carrier /media/usb",),
    "fleet merge": ("edgecl fleet merge /media/usb/*.efc -o /media/usb --fleet plant",),
    "fleet serve": (
        "edgecl fleet serve --carrier /mnt/plant --fleet plant",
        "edgecl fleet serve --carrier /media/usb --fleet plant --once",
    ),
    "fleet forget": (
        "edgecl fleet forget class washer --fleet plant",
        "edgecl fleet forget device press-1 --fleet plant",
    ),
    "fleet forget class": ('edgecl fleet forget class washer --reason "request 2026-17"',),
    "fleet forget request": (
        "edgecl fleet forget request 3f0c9a1b    as `edgecl fleet status` names it",
    ),
    "fleet forget device": ("edgecl fleet forget device press-1",),
    "fleet alias": ("edgecl fleet alias mug cup            what some call mug is a cup",),
    "fleet admit": ("edgecl fleet admit press-1            as `edgecl fleet status` names it",),
    "fleet refuse": (
        "edgecl fleet refuse press-1",
        "edgecl fleet refuse press-1 --digest 3f0c9a1b    what it asks to forget",
    ),
    "fleet probes": (
        "edgecl fleet probes edgecl-home    its held-out pictures try what comes",
        "edgecl fleet probes --none         nothing is tried any more",
    ),
    "fleet mask": ("edgecl fleet mask --carrier /media/usb    twice: for a seat, and with sums",),
    "fleet unmask": (
        "edgecl fleet unmask --carrier /mnt/plant --open washer --open nut",
        "edgecl fleet unmask --carrier /mnt/plant --close",
        "edgecl fleet unmask --carrier /mnt/plant    adds up when all have come",
    ),
    "fleet status": (
        "edgecl fleet status                   of this device",
        "edgecl fleet status --fleet plant     of all",
    ),
    "help": ("edgecl help forget class",),
}
"""Lines by command, in the order of the command line."""
