"""The page loads nothing, and works in a browser."""

import base64
import contextlib
import hashlib
import html
import html.parser
import json
import os
import re
import shutil
import subprocess
import tempfile

import clustered
import numpy as np
import pytest
import tensorflow as tf

from dc_tf.report.build import make

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LIMIT_S = 60
FOCUSED = """() => {
  const one = document.activeElement;
  return one.getAttribute("href") || one.getAttribute("name") || one.tagName;
}"""
# Does what a person would, and leaves what it sees in an attribute.
DRIVER = """
const found = {};
const cards = () => Array.from(document.querySelectorAll(".card:not([hidden])"));
const form = document.querySelector("#clusters form");
function set(name, value) {
  form.elements[name].value = value;
  form.dispatchEvent(new Event("input"));
}
set("text", "DOG photos/3.png");
found.filtered = cards().map((card) => card.id);
set("text", "no such word");
found.none = [cards().length, document.querySelector("#clusters .none").hidden];
set("text", "");
set("sort", "size");
found.sizes = cards().map((card) => Number(card.dataset.size));
const chart = document.querySelector("#training svg");
const box = chart.getBoundingClientRect();
chart.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + 200, clientY: box.top}));
found.tip = document.querySelector("#training .tip").textContent;
const dot = document.querySelector(".plot.map .dot");
dot.dispatchEvent(new PointerEvent("pointerenter"));
const tip = document.querySelector(".plot.map .tip");
found.dot = tip.textContent;
found.picture = Boolean(tip.querySelector("img"));
const column = document.querySelector("#map select");
column.value = "1";
column.dispatchEvent(new Event("input"));
const legends = Array.from(document.querySelectorAll(".map-legend:not([hidden])"));
found.legends = legends.map((legend) => legend.getAttribute("aria-label"));
document.body.dataset.found = JSON.stringify(found);
"""


def write(folder):
    """A report with a map; returns its path."""
    data = clustered.write_data(os.path.join(folder, "data"), meta=clustered.photo)
    cluster = np.arange(clustered.ROWS) % 7
    clusters = clustered.write_kmeans(os.path.join(folder, "clusters"), cluster, np.eye(7))
    output = os.path.join(folder, "report.html")
    make(output=output, clusters=clusters, data=data, sheets=5)
    return output


class PageTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.output = write(cls.folder)
        with open(cls.output, encoding="utf-8") as file:
            cls.text = file.read()

    def test_the_policy_forbids_the_network_and_foreign_programs(self):
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', self.text)[1]
        policy = policy.replace("&#39;", "'")
        self.assertStartsWith(policy, "default-src 'none'; img-src data:; ")
        self.assertNotIn("unsafe", policy)
        for tag, kind in (("style", "style-src"), ("script", "script-src")):
            inside = re.search(rf"<{tag}>(.*?)</{tag}>", self.text, re.DOTALL)[1]
            digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
            self.assertIn(f"{kind} 'sha256-{digest}'", policy)

    def test_no_address_leads_out_of_the_file(self):
        addresses = []

        class Addresses(html.parser.HTMLParser):
            def handle_starttag(self, tag, attrs):
                names = ("src", "href", "action", "data", "poster", "srcset", "xlink:href")
                addresses.extend(value for name, value in attrs if name in names)

        Addresses().feed(self.text)
        self.assertNotEmpty(addresses)
        for address in addresses:
            self.assertRegex(address, r"^(#|data:image/webp;base64,)")
        style = re.search(r"<style>(.*?)</style>", self.text, re.DOTALL)[1]
        self.assertNotRegex(style, r"url\(|@import")

    def test_without_its_program_all_content_is_there(self):
        hidden = re.findall(r"<(\w+)([^>]*) hidden[ >]", self.text.split("<script>")[0])
        self.assertNotEmpty(hidden)
        for _, attributes in hidden:
            self.assertRegex(attributes, 'class="(tools|tip|none|more|legend map-legend)"')
        self.assertEqual(self.text.count("<article"), 5)

    def test_it_follows_light_and_dark(self):
        self.assertIn("prefers-color-scheme: dark", self.text)

    def test_a_browser_runs_it_without_an_error(self):
        if not CHROMIUM:
            self.skipTest("needs chromium")
        dumped, errors = self.browse("--dump-dom")
        self.assertNotRegex(errors, r"CONSOLE|Refused to|Content Security Policy")
        self.assertRegex(dumped, r'<output aria-live="polite">5 of 5 clusters</output>')
        self.assertIn('<form class="tools" aria-label="Colours of the map">', dumped)

    def test_filter_sort_charts_and_map_answer(self):
        if not CHROMIUM:
            self.skipTest("needs chromium")
        digest = base64.b64encode(hashlib.sha256(DRIVER.encode()).digest()).decode()
        text = self.text.replace("script-src ", f"script-src &#39;sha256-{digest}&#39; ")
        path = os.path.join(self.folder, "driven.html")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace("</body>", f"<script>{DRIVER}</script></body>"))
        dumped, errors = self.browse("--dump-dom", page=path)
        self.assertNotRegex(errors, "CONSOLE")
        found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', dumped)[1]))
        self.assertEqual(found["filtered"], ["cluster-3"])
        self.assertEqual(found["none"], [0, False])
        self.assertLen(found["sizes"], 5)
        self.assertEqual(found["sizes"], sorted(found["sizes"], reverse=True))
        self.assertRegex(found["tip"], r"^1\nsquared distances: 5$")
        self.assertIn("images, label", found["dot"])
        self.assertTrue(found["picture"])
        self.assertEqual(found["legends"], ["camera"])

    def test_a_phone_shows_no_more_than_its_width(self):
        for scheme in ("light", "dark"):
            with self.opened(viewport={"width": 390, "height": 844}, color_scheme=scheme) as page:
                self.assertEqual(page.evaluate("document.documentElement.scrollWidth"), 390)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_keys_reach_sections_filter_sheets_and_map(self):
        with self.opened() as page:
            reached = set()
            for _ in range(200):
                page.keyboard.press("Tab")
                reached.add(page.evaluate(FOCUSED))
            for wanted in ("#map", "#outliers", "text", "sort", "#sizes", "column"):
                self.assertIn(wanted, reached)
            self.assertNotEmpty([one for one in reached if one.startswith("#cluster-")])
            page.locator('a[href="#sizes"]').first.focus()
            page.keyboard.press("Enter")
            self.assertEqual(page.evaluate("location.hash"), "#sizes")

    def test_without_scripts_a_section_can_be_opened_and_read(self):
        with self.opened(java_script_enabled=False) as page:
            page.locator('a[href="#outliers"]').first.click()
            self.assertTrue(page.locator("#outliers").is_visible())
            self.assertEqual(page.locator("article").count(), 5)

    @contextlib.contextmanager
    def opened(self, **context):
        """A page of Chromium with the report."""
        if not CHROMIUM:
            self.skipTest("needs chromium")
        playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        with playwright.sync_playwright() as driver:
            chromium = driver.chromium.launch(executable_path=CHROMIUM, args=sandbox)
            page = chromium.new_context(**context).new_page()
            page.set_default_timeout(1000 * LIMIT_S)
            page.goto(f"file://{self.output}")
            yield page
            chromium.close()

    def browse(self, *flags, page=None):
        """(stdout, stderr) of Chromium on the page."""
        profile = tempfile.mkdtemp(dir=self.folder)
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"]
        command += [f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0"]
        command += [*flags, f"file://{page or self.output}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
        return done.stdout, done.stderr


if __name__ == "__main__":
    tf.test.main()
