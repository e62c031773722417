"""Two real browsers behind one small interface: Debian's chromium by playwright, firefox-esr by marionette-driver."""

from __future__ import annotations

import json
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from conftest import PATIENCE_SECONDS


class Browser(Protocol):
    def open(self, page: Path, fragment: str = "") -> None:
        """Load a page from disk, scripts run."""

    def run(self, script: str, *values: Any) -> Any:
        """The value of a function body that may await; `values` are a, b, c, and `page` is what report.js offers."""

    def press(self, key: str) -> None:
        """One of ArrowLeft, ArrowRight, Escape, /."""

    def complaints(self) -> list[str]:
        """What the console says of these pages, errors and refusals of the policy, since the last call."""


def wait_for(browser: Browser, script: str, *values: Any) -> Any:
    """The value of the script as soon as it is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := browser.run(script, *values)):
        assert time.monotonic() < deadline, f"it never came: {script}"
        time.sleep(0.02)
    return found


class Chromium:
    def __init__(self, page: Any) -> None:
        self.page = page
        self._said: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self._said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self._said.append(f"error: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, page: Path, fragment: str = "") -> None:
        self.page.goto(page.as_uri() + fragment)

    def run(self, script: str, *values: Any) -> Any:
        from playwright.sync_api import Error

        try:
            return self.page.evaluate(
                f"async ([a, b, c]) => {{ const page = window.bigcluster; {script} }}", list(values)
            )
        except Error as error:
            if "context was destroyed" not in str(error):
                raise
            return None  # the page left meanwhile; firefox waits for the new one by itself

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def complaints(self) -> list[str]:
        said, self._said = self._said, []
        return said


ARRIVAL_SECONDS = 5.0
_WEBDRIVER_KEYS = {"ArrowLeft": "\ue012", "ArrowRight": "\ue014", "Escape": "\ue00c", "/": "/"}


class Firefox:
    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.complaints()

    def open(self, page: Path, fragment: str = "") -> None:
        self._driver.navigate(page.as_uri() + fragment)

    def run(self, script: str, *values: Any) -> Any:
        body = f"""const [a, b, c, done] = arguments, page = window.wrappedJSObject.bigcluster;
            (async () => {{ {script} }})().then(done, (error) => done(String(error)));"""
        padded = [*values, *[None] * (3 - len(values))]
        return self._driver.execute_async_script(body, script_args=padded)

    def press(self, key: str) -> None:
        """Once, as the page sees it: now and then the driver's key arrives nowhere, for a reason unknown."""
        for _ in range(2):
            self.run(
                """const told = document.documentElement.dataset;
                told.awaits = "a key";
                addEventListener("keydown", () => { delete told.awaits; }, { capture: true, once: true });"""
            )
            self._driver.actions.sequence("key", "keyboard").send_keys(_WEBDRIVER_KEYS[key]).perform()
            deadline = time.monotonic() + ARRIVAL_SECONDS
            while self.run("return 'awaits' in document.documentElement.dataset"):  # another page knows nothing of it
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"{key} did not reach the page, twice")

    def complaints(self) -> list[str]:
        script = """
            const ours = (m) => m.sourceName.startsWith("file:") || m.category.startsWith("CSP");
            const errors = Services.console.getMessageArray().filter((m) => m instanceof Ci.nsIScriptError);
            Services.console.reset();
            return errors.filter(ours).map((m) => m.errorMessage);"""
        with self._driver.using_context("chrome"):
            said: list[str] = self._driver.execute_script(script)
        return said


def missing(name: str) -> str:
    """Why there is no such browser here, or ''."""
    program = {"chromium": "chromium", "firefox": "firefox-esr"}[name]
    return "" if shutil.which(program) else f"no {program} here: `make test` installs it where apt-get and root permit"


@contextmanager
def chromium() -> Iterator[Callable[..., Chromium]]:
    """Opens pages; options are playwright's for a context: viewport, color_scheme."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Our own pages alone are shown. As root and in containers no sandbox starts; there /dev/shm is small, too.
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        yield lambda **options: Chromium(browser.new_context(**options).new_page())
        browser.close()


@contextmanager
def firefox(log: Path) -> Iterator[Firefox]:
    with warnings.catch_warnings():  # of the libraries that it brings along
        warnings.simplefilter("ignore")
        from marionette_driver.marionette import Marionette

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        driver = Marionette(
            bin=shutil.which("firefox-esr"),
            headless=True,
            port=port,
            gecko_log=str(log),
            startup_timeout=PATIENCE_SECONDS,
            # Nothing but the pages under test: no updates, no studies, no network at all.
            prefs=json.loads('{"network.proxy.type": 1, "network.proxy.http": "127.0.0.1", "network.proxy.ssl": '
                             '"127.0.0.1", "network.proxy.http_port": 9, "network.proxy.ssl_port": 9}'),
        )  # fmt: skip
        try:
            driver.start_session()
            driver.timeout.script = PATIENCE_SECONDS
            yield Firefox(driver)
        finally:
            driver.quit()
            driver.cleanup()
