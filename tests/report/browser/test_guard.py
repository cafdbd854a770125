"""Who may ask the browser: token, host, origin, address; and the headers of every answer."""

import shutil
import tempfile

import browsing
import tensorflow as tf
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from dc_tf.errors import ConfigError
from dc_tf.report.browser import serve
from dc_tf.report.browser.guard import Access, Guard, new_token
from dc_tf.report.browser.site import Source

TOKEN = browsing.TOKEN


def client(base="http://127.0.0.1:8765", **access):
    hosts = frozenset({"127.0.0.1", "localhost", "::1"})
    app = Guard(PlainTextResponse("inside"), Access(TOKEN, hosts, **access))
    return TestClient(app, base_url=base, follow_redirects=False)


class GuardTest(tf.test.TestCase):
    def test_the_token_moves_from_the_address_to_a_cookie(self):
        mine = client()
        answer = mine.get(f"/cluster/3?token={TOKEN}&page=2")
        self.assertEqual(answer.status_code, 303)
        self.assertEqual(answer.headers["location"], "/cluster/3?page=2")
        for part in ("HttpOnly", "SameSite=lax", "Path=/"):
            self.assertIn(part, answer.headers["set-cookie"])
        self.assertEqual(mine.get("/cluster/3").text, "inside")

    def test_without_the_token_nothing_is_shown(self):
        for path in (
            "/",
            "/thumbnail/0",
            "/static/style.css",
            "/?token=",
            "/?token=x",
            "/?token=é",
        ):
            answer = client().get(path)
            self.assertEqual(answer.status_code, 403, path)
            self.assertNotIn("inside", answer.text)
        stranger = client()
        stranger.cookies.set("dc_tf_browse", TOKEN[:-1])
        self.assertEqual(stranger.get("/").status_code, 403)
        self.assertEqual(client().post(f"/?token={TOKEN}").status_code, 403)

    def test_the_address_with_the_token_leads_to_no_other_host(self):
        for path in ("//evil.example/", "/%5Cevil.example/", "/%2F%2Fevil.example"):
            answer = client().get(f"http://127.0.0.1:8765{path}?token={TOKEN}")
            self.assertRegex(answer.headers["location"], r"^/[^/\\]", path)

    def test_other_names_of_this_server_are_refused(self):
        for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.5", "", "[::1", "a@b c"):
            answer = client().get(f"/?token={TOKEN}", headers={"host": host})
            self.assertEqual(answer.status_code, 421, host)
        for host in ("localhost:9000", "LOCALHOST", "[::1]:9000", "127.0.0.1"):
            answer = client().get(f"/?token={TOKEN}", headers={"host": host})
            self.assertEqual(answer.status_code, 303, host)

    def test_with_remote_access_addresses_are_ours_and_names_are_not(self):
        for host, status in (("10.0.0.5:80", 303), ("[fe80::1]", 303), ("evil.example", 421)):
            answer = client(any_address=True).get(f"/?token={TOKEN}", headers={"host": host})
            self.assertEqual(answer.status_code, status, host)

    def test_only_pages_of_this_server_write(self):
        mine = client()
        mine.cookies.set("dc_tf_browse", TOKEN)
        for origin in (None, "null", "http://evil.example", "http://127.0.0.1:1", "file://"):
            headers = {} if origin is None else {"origin": origin}
            for method in ("POST", "PUT", "DELETE"):
                self.assertEqual(mine.request(method, "/", headers=headers).status_code, 403)
        good = {"origin": "http://127.0.0.1:8765"}
        self.assertEqual(mine.post("/", headers=good).text, "inside")

    def test_every_answer_forbids_the_network_and_framing(self):
        mine = client()
        for answer in (mine.get("/"), mine.get(f"/?token={TOKEN}"), mine.get("/")):
            policy = answer.headers["content-security-policy"]
            self.assertIn("default-src 'none'", policy)
            self.assertNotIn("unsafe", policy)
            self.assertIn("frame-ancestors 'none'", policy)
            self.assertEqual(answer.headers["x-content-type-options"], "nosniff")

    def test_tokens_differ_and_are_long(self):
        self.assertNotEqual(new_token(), new_token())
        self.assertGreaterEqual(len(new_token()), 32)


class HostTest(tf.test.TestCase):
    def test_a_host_that_others_reach_must_be_asked_for(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        for host in ("0.0.0.0", "::", "192.168.0.4", "example.org"):
            with self.assertRaisesRegex(ConfigError, "can be reached from other machines"):
                serve.browse(Source(run=folder), host=host)
        with self.assertRaisesRegex(ConfigError, "cannot be used"):
            serve.browse(Source(run=folder), host="203.0.113.1", allow_remote=True)
        for host in ("127.0.0.1", "127.0.0.9", "localhost", "::1"):
            serve.check_host(host, allow_remote=False)

    def test_a_port_in_use_is_named(self):
        with serve.listen("127.0.0.1", 0) as taken:
            taken.listen()
            port = taken.getsockname()[1]
            with self.assertRaisesRegex(ConfigError, f"--port={port} cannot be used.*in use"):
                serve.browse(Source(run="none"), port=port)

    def test_the_printed_address_is_one_that_a_browser_takes(self):
        for host, shown in (("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("box", "box")):
            self.assertIn(f"http://{shown}:80/?token=t ", serve.address(host, 80, "t"))


if __name__ == "__main__":
    tf.test.main()
