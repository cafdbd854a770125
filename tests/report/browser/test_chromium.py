"""The browser in a real one: open, filter, click through, drop an image, save a selection."""

import contextlib
import os
import shutil
import tempfile
import threading
from unittest import mock

import browsing
import clustered
import numpy as np
import pytest
import tensorflow as tf
import uvicorn

from dc_tf.curation.features import network
from dc_tf.report.browser import serve
from dc_tf.report.browser.app import make_app
from dc_tf.report.browser.guard import Access

playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
LIMIT_MS = 20_000
NAMES = ("chromium", "chromium-browser", "google-chrome")
DROP = """(bytes) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "mine.png", {type: "image/png"}));
    for (const kind of ["dragenter", "dragover", "drop"]) {
        const event = new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true});
        document.body.dispatchEvent(event);
    }
}"""


def executable(chromium):
    """Path of a Chromium: the system's, or the one that playwright has installed."""
    found = next(filter(None, map(shutil.which, NAMES)), chromium.executable_path)
    return found if os.path.exists(found) else None


@contextlib.contextmanager
def served(site):
    """Serves a site in a thread; yields the address with its token."""
    with serve.listen("127.0.0.1", 0) as listening:
        listening.listen()
        port = listening.getsockname()[1]
        app = make_app(site, Access(browsing.TOKEN, frozenset({"127.0.0.1"})))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/?token={browsing.TOKEN}"
        finally:
            server.should_exit = True
            thread.join(10)


class ChromiumTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        driver = stack.enter_context(playwright.sync_playwright())
        path = executable(driver.chromium)
        if path is None:
            self.skipTest(
                "needs Chromium: apt-get install chromium, or python -m playwright install chromium"
            )
        site, _ = browsing.open_run(self.folder)
        self.address = stack.enter_context(served(site))
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        self.chromium = driver.chromium.launch(executable_path=path, args=sandbox)
        stack.callback(self.chromium.close)
        self.faults, self.hosts = [], set()

    def open(self, **context):
        page = self.chromium.new_context(**context).new_page()
        page.set_default_timeout(LIMIT_MS)
        page.on("console", lambda message: self.faults.append(message.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        page.goto(self.address)
        return page

    def assert_quiet(self):
        """Nothing in the console, no request to another host."""
        self.assertEmpty(self.faults)
        self.assertEqual(self.hosts, {self.address.split("/")[2]})

    def test_open_filter_click_through_drop_an_image_and_save_a_selection(self):
        page = self.open(viewport={"width": 1280, "height": 900})
        self.assertNotIn("token", page.url)
        page.get_by_label("Number or class").fill("dog")
        page.get_by_role("button", name="Show").click()
        playwright.expect(page.locator(".card")).to_have_count(3)
        page.locator(".card .pick input").first.check()
        page.locator(".card a.sheet").nth(1).click()
        page.locator(".tile .pick input").nth(2).check()
        page.locator(".tile a.picture").first.click()
        page.locator("#similar .tile").first.wait_for()
        playwright.expect(page.locator("#similar .tile")).to_have_count(36)
        page.wait_for_function("document.querySelector('figure img').naturalWidth > 0")

        vector = browsing.vectors()[20]
        with (
            mock.patch.object(network, "network_of"),
            mock.patch.object(network, "embed_images", return_value=vector[None]),
        ):
            page.evaluate(DROP, list(clustered.image((1, 2, 3))))
            page.wait_for_url("**/example/*")
        playwright.expect(page.locator(".tile a.picture").first).to_have_attribute(
            "href", "/image/20"
        )

        playwright.expect(page.locator("#count")).to_have_text("1 cluster and 1 image selected")
        page.locator("#name").fill("mine")
        page.get_by_role("button", name="Save").click()
        page.locator("#saved").wait_for()
        saved = np.load(os.path.join(self.folder, "work", "selections", "mine.npy"))
        self.assertLen(saved, 11)
        page.wait_for_load_state()
        page.get_by_role("link", name="mine", exact=True).click()
        playwright.expect(page.locator(".tile")).to_have_count(11)
        page.locator("#save").wait_for(state="hidden")  # nothing is selected any more
        self.assert_quiet()

    @pytest.mark.slow
    def test_keys_move_select_and_turn_pages(self):
        page = self.open()
        for key in ("ArrowRight", "ArrowRight", "x"):
            page.keyboard.press(key)
        self.assertTrue(page.locator(".tile .pick input").nth(1).is_checked())
        for key in ("ArrowRight", "ArrowRight", "Shift+X"):
            page.keyboard.press(key)
        playwright.expect(page.locator("#count")).to_have_text("3 clusters selected")
        page.keyboard.press("Enter")
        page.wait_for_url("**/cluster/*")
        page.keyboard.press("a")
        playwright.expect(page.locator("#count")).to_have_text("3 clusters and 10 images selected")
        page.locator(".tile a.picture").first.click()
        page.wait_for_url("**/image/*")
        first = page.url
        page.keyboard.press("n")
        page.wait_for_url(lambda url: url != first)
        page.keyboard.press("p")
        page.wait_for_url(first)
        page.keyboard.press("?")
        self.assertTrue(page.locator("#help").is_visible())
        self.assert_quiet()

    @pytest.mark.slow
    def test_without_javascript_pages_are_read_and_selections_saved(self):
        page = self.open(java_script_enabled=False)
        page.locator(".card a.sheet").first.click()
        page.locator(".tile .pick input").nth(0).check()
        page.locator("#name").fill("plain")
        page.get_by_role("button", name="Save").click()
        page.locator("#saved").wait_for()
        path = os.path.join(self.folder, "work", "selections", "plain.npy")
        self.assertLen(np.load(path), 1)
        self.assert_quiet()

    @pytest.mark.slow
    def test_a_phone_shows_no_more_than_its_width(self):
        for scheme in ("light", "dark"):
            page = self.open(viewport={"width": 390, "height": 844}, color_scheme=scheme)
            base = self.address.split("/?")[0]
            for path in ("/", "/cluster/2", "/image/7", "/search?q=sea", "/outliers"):
                page.goto(base + path)
                self.assertEqual(page.evaluate("document.documentElement.scrollWidth"), 390, path)
        self.assert_quiet()

    @pytest.mark.slow
    def test_a_refused_image_is_said_on_the_page(self):
        page = self.open()
        page.evaluate(DROP, list(b"no image"))
        page.locator("#notice").wait_for()
        self.assertIn("cannot be used", page.locator("#notice").inner_text())


if __name__ == "__main__":
    tf.test.main()
