"""tus-js-client, in Node and in Chromium, with its connections cut at random: what arrives is what was sent."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser.conftest import MakeVisit, Visit
from tests.waiting import until

PNG = b"\x89PNG\r\n\x1a\n" + os.urandom(600_000)

IN_A_PAGE = """
async ([endpoint, coded]) => {
  const bytes = Uint8Array.from(atob(coded), (c) => c.charCodeAt(0))
  const file = new File([bytes], 'page.png')
  let url = null
  for (let cuts = 3; ; cuts -= 1) {
    const whole = await new Promise((resolve, reject) => {
      const breakAt = cuts > 0 ? Math.random() * file.size : Infinity
      const upload = new tus.Upload(file, {
        endpoint, uploadUrl: url, chunkSize: 50000, retryDelays: [0, 200, 1000], storeFingerprintForResuming: false,
        metadata: { filename: file.name }, onError: reject, onSuccess: () => resolve(true),
        onProgress(sent) {
          if (sent < breakAt || upload.url === null) return
          url = upload.url
          upload.abort().then(() => resolve(false))
        },
      })
      upload.start()
    })
    if (whole) return url
  }
}
"""


@pytest.fixture(scope="module")
def tus_js(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package; without Node a skip at home and a failure in CI."""
    npm, home = shutil.which("npm"), tmp_path_factory.mktemp("npm")
    missing = pytest.fail if os.environ.get("CI") else pytest.skip
    if npm is None:
        missing("the tests need Node and npm")
    argv = [
        str(npm),
        "install",
        "--prefix",
        str(home),
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "tus-js-client@4",
    ]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if ran.returncode != 0:
        missing(f"tus-js-client cannot be installed: {ran.stderr[-500:]}")
    return home / "node_modules" / "tus-js-client"


@pytest.fixture
def visit(make_visit: MakeVisit) -> Visit:
    return make_visit()


def expect_arrived(visit: Visit, url: str) -> None:
    task_id = url.rpartition("/")[2]
    until(lambda: visit.api.call("GET", f"/api/file/upload/progress/{task_id}").json()["status"] == "completed", 30)
    told = visit.api.call("GET", f"/api/file/upload/progress/{task_id}").json()
    assert visit.live.session.get(told["oss_path"], timeout=10).content == PNG


def test_node_sends_a_file_over_cuts(visit: Visit, tus_js: Path, tmp_path: Path) -> None:
    (source := tmp_path / "a.png").write_bytes(PNG)
    script = Path(__file__).with_name("tus_sender.mjs")
    argv = ["node", str(script), f"{tus_js}/lib.esm/node/index.js", f"{visit.origin}/api/file/tus", str(source), "4"]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    assert ran.returncode == 0, ran.stderr
    expect_arrived(visit, ran.stdout.strip())


def test_a_page_sends_a_file_over_cuts(visit: Visit, tus_js: Path) -> None:
    visit.page.goto(f"{visit.origin}/healthz")
    visit.page.add_script_tag(path=tus_js / "dist" / "tus.min.js")
    coded = base64.b64encode(PNG).decode()
    url = visit.page.evaluate(IN_A_PAGE, [f"{visit.origin}/api/file/tus", coded])

    expect_arrived(visit, url)
