"""The screens of docs/cycle.md: `python benchmarks/cycle_screens.py FOLDER [OUT]`.

FOLDER is a project in which the cycle has been gone through: what `pytest tests/test_cycle.py --basetemp=…` leaves.
Starts `mlflow server` on its store and a headless Chromium (chromium and chromedriver of the distribution), and
writes small PNGs to OUT (docs/images).
"""

from __future__ import annotations

import base64
import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from mlflow import MlflowClient
from PIL import Image

OUT = Path(__file__).resolve().parent.parent / "docs" / "images"
SIZE = (1280, 800)
COLORS = 64
FLAGS = """headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking
disable-component-update disable-sync hide-scrollbars force-device-scale-factor=1"""
TIDY = """
for (const button of document.querySelectorAll('button')) {
  const label = (button.getAttribute('aria-label') || '') + button.innerText;
  if (/close assistant|^close$/i.test(label.trim())) button.click();
}
for (const label of document.querySelectorAll('label, button, [role=radio]'))
  if (label.innerText && label.innerText.trim() === 'Model training') { label.click(); break; }
"""
HIDE_PATHS = """
for (const node of document.querySelectorAll('div, span, p'))
  if (/^\\s*(Full )?Path:/.test(node.innerText || '') && node.innerText.length < 300) node.style.visibility = 'hidden';
"""
EXPAND = """
for (const button of document.querySelectorAll('[data-testid^="expand"], .ag-cell button, [aria-label*="xpand"]'))
  if (button.querySelector('[class*="plus"], svg')) button.click();
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], ready: str, folder: Path) -> Iterator[None]:
    """``command`` in ``folder``, once address ``ready`` answers."""
    quiet = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(command, cwd=folder, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            try:
                httpx.get(ready, timeout=2)
                break
            except httpx.TransportError:
                time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


class Browser:
    """A page of a headless Chromium, by the WebDriver protocol."""

    def __init__(self, driver: str, profile: str) -> None:
        """Open it, driven by the chromedriver at address ``driver``."""
        arguments = [f"--{flag}" for flag in FLAGS.split()] + [f"--user-data-dir={profile}"]
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": arguments}}
        reply = httpx.post(f"{driver}/session", json={"capabilities": {"alwaysMatch": wanted}}, timeout=120).json()
        self._session = f"{driver}/session/{reply['value']['sessionId']}"
        self._do("window/rect", width=SIZE[0], height=SIZE[1] + 140)  # of which the page gets the rest

    def _do(self, what: str, **arguments: Any) -> Any:
        return httpx.post(f"{self._session}/{what}", json=arguments, timeout=120).json()["value"]

    def run(self, script: str) -> Any:
        """What ``script`` returns in the page."""
        return self._do("execute/sync", script=script, args=[])

    def shot(self, address: str, *scripts: str, wait: float = 6) -> Image.Image:
        """``address`` as it looks after ``scripts``, each after a while."""
        self._do("url", url="about:blank")
        self._do("url", url=address)
        for script in (TIDY, *scripts, HIDE_PATHS):
            time.sleep(wait)
            self.run(script)
        picture = httpx.get(f"{self._session}/screenshot", timeout=120).json()["value"]
        return Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")

    def close(self) -> None:
        """End it."""
        httpx.delete(self._session, timeout=60)


def screens(project: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Names of the screens, the page of each below the server's address, and what is done there first."""
    client = MlflowClient(tracking_uri=f"sqlite:///{project / 'mlflow.db'}")
    experiments = {each.name: each.experiment_id for each in client.search_experiments()}
    runs = client.search_runs(list(experiments.values()), max_results=500)
    trial = next(run for run in runs if run.data.tags.get("henaw.trial") == "1")
    tune = next(run for run in runs if run.info.run_id == trial.data.tags["mlflow.parentRunId"])
    version = client.get_model_version_by_alias("henaw", "champion")
    judged = [each for each in client.search_model_versions("name='henaw'") if "henaw.decision" in each.tags]
    shown = min(judged, key=lambda each: each.tags["henaw.decision"] != "refused")
    card = client.get_run(version.run_id)
    decided = shown.tags["henaw.decision_run"]

    def page(run: Any, rest: str = "") -> str:
        return f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}{rest}"

    return {
        "runs": (f"experiments/{tune.info.experiment_id}/runs", (EXPAND,)),
        "trial": (page(trial), ()),
        "study": (page(tune, "/artifacts/figures/study_history.png"), ()),
        "model": ("models/henaw", ()),
        "version": (f"models/henaw/versions/{version.version}", ()),
        "card": (page(card, "/artifacts/model_card.html"), ()),
        "decision": (page(client.get_run(decided), "/artifacts/decision.html"), ()),
    }


def main() -> None:
    """Make them all."""
    project, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]) if len(sys.argv) > 2 else OUT
    only = sys.argv[3:]
    out.mkdir(parents=True, exist_ok=True)
    server, driver = free_port(), free_port()
    store = f"sqlite:///{project / 'mlflow.db'}"
    serve = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(server)]
    drive = ["chromedriver", f"--port={driver}"]
    home = f"http://127.0.0.1:{server}"
    with (
        tempfile.TemporaryDirectory() as profile,
        running([*serve, "--workers", "1"], home, project),
        running(drive, f"http://127.0.0.1:{driver}/status", project),
    ):
        browser = Browser(f"http://127.0.0.1:{driver}", profile)
        for name, (page, scripts) in screens(project).items():
            if only and name not in only:
                continue
            picture = browser.shot(f"{home}/#/{page}", *scripts)
            picture.quantize(COLORS).save(out / f"cycle_{name}.png", optimize=True)
            print(f"{name}: {(out / f'cycle_{name}.png').stat().st_size:,} bytes", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
