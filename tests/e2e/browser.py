"""A headless Chromium that opens a report and tells what happened in it."""

import json
import shutil
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def _program(names) -> str:
    for name in names:
        path = shutil.which(name)
        if path:
            return path
    # A failure, not a skip: without it nobody has seen the report drawn.
    return pytest.fail(f"none of {', '.join(names)} is installed: the HTML report is opened in a "
                       "real browser; on Debian: apt-get install chromium chromium-driver")


class Browser:
    """One window. Nothing it does needs a network."""

    def __init__(self, width: int = 1280):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = _program(BROWSERS)
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu",
                         "--disable-dev-shm-usage", f"--window-size={width},900"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(_program(["chromedriver"])))

    def open(self, path: Path) -> str:
        """Returns the address."""
        address = path.resolve().as_uri()
        self.driver.get(address)
        return address

    def close(self):
        self.driver.quit()

    def run(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list:
        return self.driver.find_elements("css selector", selector)

    def details(self) -> str:
        """What the box beside the pointer says; empty when it is hidden."""
        return self.run("const box = document.getElementById('details');"
                        "return box.hidden ? '' : box.innerText")

    def hover(self, element, x=None, y=None):
        """x, y: from the element's upper left corner; its middle without."""
        from selenium.webdriver import ActionChains

        # A scroll event comes with the next frame, and hides the box.
        self.driver.execute_async_script("""
            const [element, done] = arguments;
            element.scrollIntoView({block: 'center'});
            requestAnimationFrame(() => requestAnimationFrame(done));""", element)
        size = element.rect
        offset = (0, 0) if x is None else (x - int(size["width"]) // 2, y - int(size["height"]) // 2)
        ActionChains(self.driver).move_to_element_with_offset(element, *offset).perform()

    def console(self) -> list:
        """Messages since the last call."""
        return self.driver.get_log("browser")

    def requests(self) -> list:
        """Addresses requested since the last call."""
        messages = [json.loads(entry["message"])["message"]
                    for entry in self.driver.get_log("performance")]
        return [message["params"]["request"]["url"] for message in messages
                if message["method"] == "Network.requestWillBeSent"]

    def set_width(self, width: int):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600})

    def set_dark(self, dark: bool):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})

    def colors(self, canvas) -> int:
        """Number of different opaque colours on a canvas."""
        return self.run("""
            const canvas = arguments[0];
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            const colors = new Set();
            for (let i = 0; i < data.length; i += 4) {
              if (data[i + 3] === 255) colors.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
            }
            return colors.size;""", canvas)
