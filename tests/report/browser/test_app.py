"""Every address of the browser: what it answers, what it refuses, and that texts stay texts."""

import dataclasses
import html.parser
import io
import json
import os
import shutil
import tempfile
from unittest import mock

import browsing
import clustered
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dc_tf.curation.features import network
from dc_tf.curation.search.find import search
from dc_tf.curation.selection.row_files import read_rows
from dc_tf.errors import ConfigError, DataError
from dc_tf.report.browser import app as app_lib
from dc_tf.report.browser import examples as examples_lib
from dc_tf.report.browser.single_sources import single_sources
from dc_tf.report.browser.site import Source, check_source, open_site

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"&{{ 7*7 }}"


class Links(html.parser.HTMLParser):
    """The elements of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]

    def text(self):
        return " ".join(" ".join(self.words).split())


class SiteCase(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.site, cls.run_folder = browsing.open_run(cls.folder)

    def setUp(self):
        super().setUp()
        self.client = browsing.client(self.site)

    def page(self, path):
        answer = self.client.get(path)
        self.assertEqual(answer.status_code, 200, f"{path} {answer.text}")
        return Links(answer.text)

    def rows_of(self, page):
        return [
            int(found["href"].rpartition("/")[2])
            for found in page.all("a")
            if found.get("class") == "picture" and found["href"].startswith("/image/")
        ]


@pytest.mark.slow
class SingleSourceTest(tf.test.TestCase):
    def test_clusters_of_one_user_can_be_listed(self):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        site, _ = browsing.open_run(
            folder, meta=lambda row: {"user": f"user{row}" if row % 2 else "me"}
        )
        self.assertAllEqual(site.single, [True] * 3 + [False] * 3)
        client = browsing.client(site)
        self.assertIn("1–3 of 3 clusters", Links(client.get("/?kind=single").text).text())
        self.assertIn("No cluster is like that", Links(client.get("/?kind=tiny").text).text())
        self.assertIn("all of one user", client.get("/cluster/1").text)
        self.assertNotIn("all of one user", client.get("/cluster/4").text)

    def test_a_table_of_other_clusters_says_nothing(self):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        site, _ = browsing.open_run(folder)
        self.assertAllEqual(site.single, [False] * 6)
        other = mock.Mock(count=6, flat=np.array(site.index.flat)[::-1])
        self.assertIsNone(single_sources(site.table, other, 3, os.path.join(folder, "single")))
        self.assertIsNone(single_sources(None, other, 3, os.path.join(folder, "single")))


class PagesTest(SiteCase):
    def test_the_overview_filters_and_sorts_clusters(self):
        page = self.page("/")
        self.assertIn("60 images, deepercluster, round 1, 2 × 3 clusters.", page.text())
        self.assertEqual(page.text().count("mean distance"), 6 + 2)  # the other two: orders
        self.assertIn("1–3 of 3 clusters", self.page("/?text=1&least=10&sort=x").text())
        self.assertIn("1–3 of 3 clusters", self.page("/?parent=1").text())
        self.assertIn("No cluster is like that", self.page("/?least=11").text())
        cats = self.page("/?text=CAT").text()
        self.assertIn("Cluster 0.1", cats)
        self.assertNotIn("Cluster 1.1", cats)
        self.assertIn("No cluster is like that", self.page("/?text=%3Cb%3E").text())
        self.assertIn("1–1 of 1 clusters", self.page("/?text=1.2").text())

    def test_a_cluster_shows_its_images_by_distance_from_both_ends(self):
        near, far = self.page("/cluster/2"), self.page("/cluster/2?sort=far")
        members = np.flatnonzero(
            (np.arange(60) % 2 == 0) & ((np.arange(60) // 2 + 1) % 3 == 2)
        ).tolist()
        self.assertEqual(self.rows_of(near), members)  # row i is at distance i
        self.assertEqual(self.rows_of(far), members[::-1])
        self.assertIn("cat 10 · 100 %", near.text())
        self.assertIn("Sub-clusters of cluster 0", near.text())

    def test_long_lists_have_pages(self):
        with mock.patch.object(app_lib, "TILES", 4):
            first = self.page("/cluster/2")
            self.assertLen(self.rows_of(first), 4)
            (onward,) = [a["href"] for a in first.all("a") if a.get("rel") == "next"][:1]
            second = self.page(onward)
            self.assertEmpty(set(self.rows_of(first)) & set(self.rows_of(second)))
            self.assertEqual(self.rows_of(self.page("/cluster/2?page=99")), [50, 56])

    def test_an_image_shows_metadata_and_its_cluster_in_every_round(self):
        page = self.page("/image/7")
        text = page.text()
        for part in (
            "photos/7.png",
            "24 × 24",
            "user2",
            "sea , tag1",
            "deepercluster 0 1.0",
            "deepercluster 1 1.1",
            "distance 7",
        ):
            self.assertIn(part, text)
        self.assertIn("/search?q=tag1&in=hashtags", [a["href"] for a in page.all("a")])

    def test_similar_images_are_those_of_search(self):
        found = search(self.site.examples.features, ["20"], k=36)["neighbours"]
        for path in ("/image/20/similar", "/image/20/similar?fragment=1"):
            rows = self.rows_of(self.page(path))
            self.assertEqual(rows, [record["row"] for record in found])
            self.assertNotIn(20, rows)
        self.assertNotIn("<html", self.client.get("/image/20/similar?fragment=1").text)

    def test_many_features_are_compared_through_an_inverted_file(self):
        with mock.patch.object(examples_lib, "_EXACT_NUMBERS", 0):
            examples = examples_lib.Examples(self.site.examples.features)
            examples.prepare()
            client = browsing.client(dataclasses.replace(self.site, examples=examples))
            page = Links(client.get("/image/20/similar").text)
        self.assertIn("recall@10", page.text())
        self.assertEqual(self.rows_of(page)[0], self.rows_of(self.page("/image/20/similar"))[0])

    def test_text_is_found_in_names_hashtags_and_classes(self):
        self.assertEqual(self.rows_of(self.page("/search?q=photos/1.&in=source")), [1])
        self.assertLen(self.rows_of(self.page("/search?q=TAG1")), 20)
        self.assertLen(self.rows_of(self.page("/search?q=dog&in=class")), 30)
        self.assertEqual(self.rows_of(self.page("/search?q=11.5&in=latitude"))[:2], [1, 3])
        self.assertIn("Nothing with", self.page("/search?q=nowhere").text())
        self.assertIn("/image/12", [a["href"] for a in self.page("/search?q=12").all("a")])
        for path in ("/search?q=a&in=none", "/search?q=a&in=latitude"):
            self.assertEqual(self.client.get(path).status_code, 400)

    def test_a_search_resumes_where_it_stopped(self):
        found, path = [], "/search?q=sea"
        real = app_lib.text_search.search
        with mock.patch.object(app_lib.text_search, "search", lambda *a: real(*a, most=25)):
            while path:
                page = self.page(path)
                found += self.rows_of(page)
                path = next((a["href"] for a in page.all("a") if a.get("rel") == "next"), None)
        self.assertEqual(found, list(range(60)))

    def test_outliers_are_far_for_their_cluster(self):
        rows = self.rows_of(self.page("/outliers"))
        beyond = self.site.index.deviations(rows)
        self.assertAllClose(beyond, np.sort(beyond)[::-1])

    def test_pictures_are_jpegs_of_bounded_size(self):
        for path, size in (("/thumbnail/3", (192, 192)), ("/picture/3", (24, 24))):
            answer = self.client.get(path)
            self.assertEqual(answer.headers["content-type"], "image/jpeg")
            self.assertEqual(Image.open(io.BytesIO(answer.content)).size, size)

    def test_every_picture_has_an_alternative_text_and_every_field_a_name(self):
        for path in ("/", "/cluster/2", "/image/7", "/search?q=sea", "/outliers"):
            page = self.page(path)
            self.assertNotEmpty(page.all("img"))
            self.assertTrue(all("alt" in picture for picture in page.all("img")), path)
            self.assertLen(page.all("h1"), 1)
            self.assertEmpty([a for _, a in page.tags if "style" in a or "onclick" in a])

    def test_what_is_not_there_is_said_with_a_page(self):
        paths = ["/nothing", "/image/60", "/image/-1", "/image/x", "/cluster/6", "/thumbnail/60"]
        paths += [f"/image/{'9' * 5000}", "/static/app.py", "/static/..%2fapp.py", "/example/0"]
        for path in paths:
            answer = self.client.get(path)
            self.assertEqual(answer.status_code, 404, path)
            self.assertIn("no such page", answer.text)
        self.assertEqual(self.client.post("/", headers=browsing.ORIGIN).status_code, 405)


class SelectionTest(SiteCase):
    def save(self, **form):
        return self.client.post("/selections", data=form, headers=browsing.ORIGIN)

    def test_rows_and_clusters_are_saved_listed_and_downloaded(self):
        answer = self.save(name="mine", row=["3", "5"], rows="5,1", cluster="2", clusters="")
        self.assertEqual(
            (answer.status_code, answer.headers["location"]), (303, "/selections?saved=mine")
        )
        expected = sorted({1, 3, 5, *self.site.index.members(2).tolist()})
        path = os.path.join(self.folder, "work", "selections", "mine.npy")
        saved = np.load(path)
        self.assertAllEqual(saved, expected)
        self.assertEqual(saved.dtype, np.int64)
        with open(path.replace(".npy", ".json")) as file:
            about = json.load(file)
        self.assertEqual((about["rows"], about["source"]), (13, self.run_folder))
        self.assertIn("mine is saved. name images made", self.page("/selections?saved=mine").text())
        self.assertEqual(self.rows_of(self.page("/selections/mine")), expected)
        download = self.client.get("/selections/mine.npy")
        self.assertAllEqual(np.load(io.BytesIO(download.content)), expected)
        self.assertIn('filename="mine.npy"', download.headers["content-disposition"])
        listed = self.client.get("/selections/mine.jsonl")
        self.assertIn('filename="mine.jsonl"', listed.headers["content-disposition"])
        lines = list(map(json.loads, listed.text.splitlines()))
        names = [record.source for record in self.site.pictures.records(expected)]
        self.assertEqual([line["row"] for line in lines], expected)
        self.assertEqual([line["source"] for line in lines], names)
        file = path.replace(".npy", ".jsonl")
        self.assertAllEqual(read_rows(file, "--rows", self.site.dataset.rows), expected)

    def test_one_of_the_same_name_is_replaced_only_if_asked(self):
        self.save(name="twice", row="1")
        self.assertIn("there is a selection twice", self.save(name="twice", row="2").text)
        self.assertEqual(self.save(name="twice", row="2", replace="1").status_code, 303)
        self.assertAllEqual(self.site.selections.rows("twice"), [2])

    def test_names_cannot_leave_the_folder(self):
        before = sorted(os.listdir(self.folder))
        for name in ("", "..", "../x", "a/b", "/etc/x", ".hidden", "a\\b", "x\n", "é", "a" * 65):
            answer = self.save(name=name, row="1")
            self.assertEqual(answer.status_code, 400, name)
            self.assertIn("cannot be the name", answer.text)
        for path in ("..%2f..%2frun%2fdata.npy", "%2fetc%2fpasswd.jsonl", "..npy", "none.npy"):
            self.assertIn(self.client.get(f"/selections/{path}").status_code, (400, 404))
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    def test_what_is_no_row_is_refused(self):
        for form in ({"row": "60"}, {"rows": "1,x"}, {"cluster": "6"}, {"row": "-1"}, {}):
            self.assertEqual(self.save(name="wrong", **form).status_code, 400, form)
        self.assertEqual(
            self.client.post("/selections", content=b"\xff", headers=browsing.ORIGIN).status_code,
            400,
        )
        with mock.patch.object(app_lib, "MOST_FORM_BYTES", 10):
            self.assertEqual(self.save(name="long", rows="1,2,3,4,5,6").status_code, 413)
        self.assertNotIn("wrong", [one.name for one in self.site.selections.all()])


class ExampleTest(SiteCase):
    def setUp(self):
        super().setUp()
        examples = examples_lib.Examples(
            self.site.examples.features
        )  # which has loaded no network yet
        self.client = browsing.client(dataclasses.replace(self.site, examples=examples))

    def drop(self, data):
        return self.client.post("/example", content=data, headers=browsing.ORIGIN)

    def test_a_dropped_image_finds_what_is_like_it(self):
        vector = browsing.vectors()[20]
        with (
            mock.patch.object(network, "network_of", return_value="network") as opened,
            mock.patch.object(network, "embed_images", return_value=vector[None]) as embedded,
        ):
            for _ in range(2):
                answer = self.drop(clustered.image((1, 2, 3)))
        opened.assert_called_once()  # the network stays loaded
        self.assertEqual(embedded.call_args.args[0], "network")
        page = self.page(answer.json()["location"])
        self.assertEqual(self.rows_of(page)[0], 20)
        own = self.client.get(f"{answer.json()['location']}/thumbnail")
        self.assertEqual(Image.open(io.BytesIO(own.content)).size, (192, 192))

    def test_what_cannot_be_used_is_said(self):
        for data, message in (
            (b"no image", "cannot be used"),
            (b"", "empty"),
            (clustered.image((1, 2, 3)), "does not record which network"),
        ):
            answer = self.drop(data)
            self.assertEqual(answer.status_code, 400)
            self.assertIn(message, answer.json()["error"])
        with mock.patch.object(app_lib, "MOST_IMAGE_BYTES", 10):
            self.assertEqual(self.drop(b"x" * 11).status_code, 413)


class OthersTest(tf.test.TestCase):
    def folder(self):
        return tempfile.mkdtemp(dir=self.get_temp_dir())

    def test_markup_in_names_metadata_and_classes_stays_text(self):
        site, _ = browsing.open_run(
            self.folder(),
            meta=lambda row: {"hashtags": [HOSTILE], HOSTILE: HOSTILE},
            class_names=(HOSTILE, "dog\ud800"),
            source=lambda row: f"{HOSTILE}/{row} {HOSTILE}.png",
        )
        client = browsing.client(site)
        for path in (
            "/",
            "/cluster/0",
            "/image/0",
            "/image/0/similar",
            "/outliers",
            "/search",
            f"/search?q={HOSTILE[:8]}",
            "/search?q=%3Cb%3E",
            "/?text=%22%3E%3Cb%3E",
            "/selections/%3Cb%3E",
        ):
            text = client.get(path).text
            page = Links(text)
            self.assertEmpty([a for a in page.all("script") if "src" not in a], path)
            self.assertEmpty([a for _, a in page.tags if "onerror" in a], path)
            self.assertEmpty(page.all("b") if "%3Cb" in path else [], path)
        self.assertIn(HOSTILE, Links(client.get("/image/0").text).text())

    def test_a_corrupt_row_is_shown_as_such(self):
        folder = self.folder()
        site, _ = browsing.open_run(folder)
        _, ((offset, _, _),) = site.dataset.locate([7])
        with open(site.dataset.shard_path(0), "r+b") as file:
            file.seek(int(offset) + 10)
            file.write(b"\0" * 30)
        client = browsing.client(site)
        self.assertIn("cannot be read: it is corrupt", client.get("/image/7").text)
        self.assertEqual(client.get("/thumbnail/7").headers["content-type"], "image/jpeg")
        cluster = int(site.index.flat[7])
        self.assertIn("row 7, unreadable", client.get(f"/cluster/{cluster}").text)

    def test_kmeans_without_labels_and_features_is_shown_with_what_it_has(self):
        folder = self.folder()
        data = clustered.write_data(os.path.join(folder, "data"), labels=False)
        cluster = np.arange(clustered.ROWS) % 4
        path = clustered.write_kmeans(os.path.join(folder, "clusters"), cluster, np.eye(4))
        source = Source(clusters=path, data=data, table=False)
        with mock.patch("dc_tf.report.browser.site.with_distances", lambda given: given):
            site = open_site(source, os.path.join(folder, "work"))
        client = browsing.client(site)
        overview = client.get("/").text
        self.assertIn("Cluster 3", overview)
        for absent in ("Purest", "distance", "Outliers"):
            self.assertNotIn(absent, overview)
        self.assertIn("photos/5.png", client.get("/image/5").text)
        self.assertIn("no features of these images yet", client.get("/image/5").text)
        self.assertEqual(client.get("/image/5/similar").status_code, 400)
        self.assertIn("--table", client.get("/search?q=a").text)
        self.assertFalse(os.path.exists(os.path.join(folder, "work", "clusters.parquet")))

    def test_features_that_a_run_has_kept_are_used(self):
        folder = self.folder()
        site, run = browsing.open_run(folder)
        browsing.embedded(run, site.dataset)
        for layer, found in ((None, "fc7"), ("fc7", "fc7"), ("conv3", None)):
            again = open_site(Source(run=run, layer=layer), os.path.join(folder, "work"))
            self.assertEqual(again.examples and again.examples.how, found)

    def test_what_cannot_work_is_refused(self):
        for given, message in (
            ({}, "give --run=RUN, or"),
            ({"run": "R", "clusters": "C"}, "not both"),
            ({"clusters": "C"}, "give --data=DATA"),
            ({"clusters": "C", "data": "D", "round_index": 1}, "are of a run"),
            ({"clusters": "C", "data": "D", "embed": True}, "--embed makes features of --run"),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                check_source(Source(**given))
        folder = self.folder()
        with self.assertRaisesRegex(ConfigError, "not the folder of a run"):
            open_site(Source(run=folder), os.path.join(folder, "work"))
        data = clustered.write_data(os.path.join(folder, "data"))
        bare = clustered.write_run(os.path.join(folder, "run"), data, rounds=0)
        with self.assertRaisesRegex(ConfigError, "no clustering yet"):
            open_site(Source(run=bare), os.path.join(folder, "work"))
        with self.assertRaises(DataError):
            open_site(Source(clusters=bare, data=bare), os.path.join(folder, "work"))


if __name__ == "__main__":
    tf.test.main()
