"""The page loads nothing, and works in a browser."""

import base64
import hashlib
import html.parser
import os
import re
import shutil
import subprocess
import tempfile

import clustered
import numpy as np
import tensorflow as tf

from dc_tf.report.build import make

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LIMIT_S = 60


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

    def test_it_follows_light_and_dark(self):
        self.assertIn("prefers-color-scheme: dark", self.text)

    def test_a_browser_runs_it_without_an_error(self):
        if not CHROMIUM:
            self.skipTest("needs chromium")
        dumped, errors = self.browse("--dump-dom")
        self.assertNotRegex(errors, r"CONSOLE|Refused to|Content Security Policy")
        self.assertRegex(dumped, r'<output aria-live="polite">5 of 5 clusters</output>')
        self.assertIn('<form class="tools" aria-label="Colours of the map">', dumped)

    def browse(self, *flags):
        """(stdout, stderr) of Chromium on the page."""
        profile = tempfile.mkdtemp(dir=self.folder)
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"]
        command += [f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0"]
        command += [*flags, f"file://{self.output}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
        return done.stdout, done.stderr


if __name__ == "__main__":
    tf.test.main()
