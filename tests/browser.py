"""Pages as a browser shows them: headless Chromium (Debian: `apt-get install chromium`)."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image


NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason=f"none of {', '.join(NAMES)} is on PATH; on Debian: apt-get install chromium"
)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-dev-shm-usage")
# A browser's window is at least 500 px wide: a frame can be as narrow as a phone. Its content is of the same origin, so
# that this script may look at it; the page itself has none.
FRAME = """<!doctype html><meta charset="utf-8"><style>body {{ margin: 0 }} iframe {{ border: 0; display: block }}</style>
<iframe width="{width}" height="{height}" srcdoc="{page}"></iframe>
<script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement
  const widest = [...page.querySelectorAll("body *")].filter(
    item => item.getBoundingClientRect().right > root.clientWidth + 1 && !item.closest(".scroll"))
  document.title = JSON.stringify({{
    scrollWidth: root.scrollWidth, clientWidth: root.clientWidth, height: root.scrollHeight,
    tooWide: widest.map(item => item.outerHTML.slice(0, 80)),
    images: [...page.images].map(image => [image.naturalWidth, image.naturalHeight, image.alt]),
    text: page.body.innerText,
  }})
}})
</script>"""


def run(tmp_path: Path, *arguments: str) -> str:
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def rendered(page: Path, width: int, tmp_path: Path) -> dict:
    """What a browser makes of a page `width` pixels wide: its text, its size, what sticks out, its pictures' sizes."""
    dom = run(tmp_path, "--virtual-time-budget=10000", "--dump-dom", framed(page, width, 800, tmp_path))
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1]))


def kept_screenshot(page: Path, name: str, width: int, height: int, tmp_path: Path) -> Image.Image:
    """The uppermost `height` pixels of a page `width` pixels wide, kept in the folder that MACDM_SCREENSHOTS names, if any."""
    folder = Path(os.environ.get("MACDM_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / f"{name}_{width}.png"
    size = f"--window-size={max(width, 500)},{height}"
    run(tmp_path, "--virtual-time-budget=10000", size, f"--screenshot={path}", framed(page, width, height, tmp_path))
    with Image.open(path) as picture:
        picture = picture.convert("RGB").crop((0, 0, width, height))
    picture.save(path)
    return picture


def framed(page: Path, width: int, height: int, tmp_path: Path) -> str:
    """The address of a page that shows `page` in a frame of this size."""
    frame = tmp_path / "frame.html"
    content = html.escape(page.read_text(encoding="utf-8"))
    frame.write_text(FRAME.format(width=width, height=height, page=content), encoding="utf-8")
    return frame.as_uri()
