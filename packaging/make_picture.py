"""Draw docs/pictures/report.png: the top of the report of the demo's home, as a browser shows it.

Run: edgecl demo --keep demo; python packaging/make_picture.py demo/home (needs chromium)
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from edgecl.evaluation.report import write_report
from edgecl.home import Home

OUTPUT = Path(__file__).parents[1] / "docs/pictures/report.png"
WIDTH, HEIGHT = 1060, 1240
MOST_BYTES = 150_000


def main(home: Path) -> None:
    """Draw the report of a home.

    Args:
        home: The home; nothing in it is changed.
    """
    with tempfile.TemporaryDirectory() as folder:
        device = Home(home)
        page = write_report(device, Path(folder) / "report.html").path
        # Where it was drawn is nobody's business.
        page.write_text(page.read_text().replace(str(device.path), "edgecl-home"))
        shot = Path(folder) / "shot.png"
        subprocess.run(
            ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             f"--user-data-dir={folder}/browser", f"--window-size={WIDTH},{HEIGHT}",
             f"--screenshot={shot}", page.as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        picture = Image.open(shot).convert("RGB")
    out = io.BytesIO()
    picture.quantize(64, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    if out.tell() > MOST_BYTES:
        sys.exit(f"the picture has {out.tell()} bytes, more than {MOST_BYTES}; draw less of it")
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_bytes(out.getvalue())
    print(OUTPUT, out.tell())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
