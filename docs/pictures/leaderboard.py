"""The committed records' page as a picture. Usage: python docs/pictures/leaderboard.py.

Flow: leaderboard/records -> the page in a temporary folder -> Chromium -> leaderboard.png beside this file.
"""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from fmcs_bench.leaderboard import build as leaderboard

HERE = Path(__file__).parent
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu"]


def main() -> None:
    """Draw it."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page = leaderboard.build(HERE.parent.parent / "leaderboard/records", Path(folder))
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        tab = browser.new_page(viewport={"width": 1280, "height": 1150}, color_scheme="light")
        tab.goto(page.as_uri())
        tab.locator("figure img").first.evaluate("image => image.decode()")
        tab.screenshot(path=HERE / "leaderboard.png")
        browser.close()


if __name__ == "__main__":
    main()
