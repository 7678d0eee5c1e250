"""A real browser in front of the page: Debian's chromium and its driver, by selenium."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from henaw.model.answers import answer
from henaw.model.clock import Clock
from tests.serving.guarded import CLOCK, COLUMNS
from tests.serving.sockets import PATIENCE

NUMBERS = [name for name in COLUMNS if name != "sex"]
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


class Browser:
    """One tab, and what a person does in it; whatever the page says or throws in the console is kept."""

    def __init__(self, driver: Any, downloads: Path) -> None:
        self.driver, self.downloads = driver, downloads

    def open(self, port: int) -> None:
        self.driver.get(f"http://localhost:{port}/")

    def one(self, selector: str) -> Any:
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        from selenium.webdriver.common.by import By

        found: list[Any] = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found

    def text(self, selector: str) -> str:
        return str(self.one(selector).text)

    def run(self, script: str, *arguments: Any) -> Any:
        """What ``script``, the body of an asynchronous function of ``given``, returns."""
        wrapped = (
            "const done = arguments[arguments.length - 1];"
            f"(async (given) => {{ {script} }})([...arguments].slice(0, -1)).then(done, (error) => done(`${{error}}`))"
        )
        return self.driver.execute_async_script(wrapped, *arguments)

    def focus(self) -> str:
        return str(self.driver.switch_to.active_element.get_attribute("id"))

    def until(self, what: Callable[[], Any]) -> Any:
        from selenium.common.exceptions import WebDriverException

        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if found := what():
                    return found
            except WebDriverException:  # not there yet, or just replaced
                pass
            time.sleep(0.02)
        raise AssertionError(f"never came; the page says {self.text('main')!r}, its console {self.console()!r}")

    def click(self, selector: str) -> None:
        """Click what is brought to the middle first: the driver would scroll it under the notice."""
        found = self.one(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({ block: 'center', behavior: 'instant' })", found)
        found.click()

    def type(self, selector: str, text: str) -> None:
        field = self.one(selector)
        field.clear()
        field.send_keys(text)

    def fill(self, row: Mapping[str, Any]) -> None:
        """Enter a row, as people do: sex by its radio button, everything else as text."""
        for name, value in row.items():
            if name == "sex":
                self.click(f"[name=sex][value={value}]")
            else:
                self.type(f"#field-{name}", "" if value is None else str(value))

    def submit(self) -> None:
        self.click("#submit")

    def answered(self, title: str) -> str:
        """The heading of the answer, once it begins with ``title``."""
        self.until(lambda: self.text("#answer-title").startswith(title))
        return self.text("#answer-title")

    def choose(self, path: Path) -> str:
        """Estimate the file at ``path``; what is said in the end."""
        self.one("#csv").send_keys(str(path))
        self.click("#file-start")
        self.until(lambda: self.text("#file-status").startswith(("Done", "No", "Stopped")))
        return self.text("#file-status")

    def download(self, name: str) -> str:
        self.click("#file-result a")
        path = self.downloads / name
        self.until(path.is_file)
        return path.read_bytes().decode("utf-8")

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def watch(self) -> None:
        """Keep what is sent from now on, for ``sent``."""
        self.driver.execute_script(
            "window.sent = []; const real = window.fetch; window.fetch = (path, options) => "
            "{ sent.push([path, options.body ?? '']); return real(path, options); }"
        )

    def sent(self) -> list[tuple[str, Any]]:
        return [
            (path, json.loads(body) if body else None)
            for path, body in self.driver.execute_script("return window.sent")
        ]

    def looks(self, width: int, scheme: str) -> None:
        """Be ``width`` pixels wide, with ``scheme`` light or dark."""
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser that downloads into ``folder``; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, which is absent here")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver, which are absent here")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1280,900"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
        found = Browser(driver, folder)
        found.looks(1280, "light")
        yield found
    finally:
        driver.quit()


def answer_of(row: dict[str, Any], coverage: float = 0.9, clock: Clock = CLOCK) -> dict[str, Any]:
    """The model's answer about ``row``."""
    frame = pd.DataFrame([row])[list(COLUMNS)].astype(dict.fromkeys(NUMBERS, float))
    found: dict[str, Any] = answer(clock, frame, coverage).iloc[0].to_dict()
    return found
