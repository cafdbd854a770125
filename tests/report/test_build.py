"""Reports of runs and of clusterings: what they hold, what is missing; texts stay texts."""

import contextlib
import html.parser
import io
import json
import os
import tempfile
from unittest import mock

import clustered
import numpy as np
import pytest
import runs
import tensorflow as tf

from dc_tf.atomic import write_json
from dc_tf.commands.main import main
from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.remembered import remember
from dc_tf.report import content, page
from dc_tf.report.build import make

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"&{{ 7*7 }}"


class Document(html.parser.HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._inside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if self._inside and self._inside[-1] not in ("script", "style"):
            self.texts.append(data)

    def all(self, *names):
        return [attrs for tag, attrs in self.tags if tag in names]

    def text(self):
        return " ".join(" ".join(self.texts).split())


class ReportCase(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        self.output = os.path.join(self.folder, "report.html")

    def path(self, name):
        return os.path.join(self.folder, name)

    def document(self, **arguments):
        self.result = make(output=self.output, **arguments)
        with open(self.output, encoding="utf-8") as file:
            return Document(file.read())


class RunTest(ReportCase):
    def setUp(self):
        super().setUp()
        self.data = clustered.write_data(self.path("data"), meta=clustered.photo)
        self.run_folder = clustered.write_run(self.path("run"), self.data)

    def test_it_holds_all_sections(self):
        document = self.document(run=self.run_folder)
        self.assertEqual(self.result["rows_read"], clustered.ROWS)
        self.assertEqual(self.result["clusters"], 6)
        self.assertEqual(self.result["clusters_shown"], 6)
        self.assertEqual(self.result["bytes"], os.path.getsize(self.output))
        anchors = [found["href"] for found in document.all("a") if found["href"].startswith("#")]
        ids = {found["id"] for _, found in document.tags if "id" in found}
        self.assertLessEqual({anchor[1:] for anchor in anchors}, ids)
        text = document.text()
        for part in ("Loss", "Gradient norm", "Waiting for input", "Purest for label"):
            self.assertIn(part, text)
        for part in (
            "round 1 0.558 0.558 0.760 0.558 0.000 1.000",
            "Uniform in colour",
            "features of rotnet",
        ):
            self.assertIn(part, text)
        self.assertIn("The run has not finished", text)
        self.assertIn("no checkpoint yet", text)
        self.assertIn("Nothing was measured in the folder of the run", text)
        self.assertIn("Left out, as measurements or texts of single images: exposure", text)
        # 20 steps of 8 images at 4 a second.
        self.assertIn("time of training 40.0 s", text)
        self.assertIn("time of clustering 3.0 s", text)

    def test_every_picture_has_a_text_and_every_field_a_name(self):
        document = self.document(run=self.run_folder)
        pictures = document.all("img")
        self.assertNotEmpty(pictures)
        for picture in pictures:
            self.assertStartsWith(picture["src"], "data:image/")
            self.assertNotEmpty(picture["alt"])
        for drawing in document.all("svg"):
            named = drawing.get("aria-label") or drawing.get("aria-hidden") == "true"
            self.assertTrue(named, drawing)
        self.assertLen(document.all("h1"), 1)

    def test_a_round_and_a_stage_can_be_asked_for(self):
        document = self.document(run=self.run_folder, round_index=0, stage="deepercluster")
        self.assertIn("deepercluster, round 0", document.text())
        for asked, message in (
            ({"round_index": 7}, "has rounds 0 to 1"),
            ({"stage": "other"}, "no stage 'other'; it has rotnet, deepercluster"),
            ({"stage": "rotnet"}, "has no clustering"),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                make(output=self.output, run=self.run_folder, **asked)

    def test_kept_centroids_give_a_map_the_nearest_images_and_outliers(self):
        clustered.keep(self.run_folder, 1)
        document = self.document(run=self.run_folder)
        self.assertLen([a for a in document.all("circle") if "data-cluster" in a], 6)
        text = document.text()
        self.assertEqual(text.count("nearest the centroid"), 6)
        self.assertIn("Least even", text)
        self.assertNotIn("Distances to the centroids are not known", text)
        rows = [p["alt"] for p in document.all("img")]
        self.assertIn("row 0, photos/0.png, cat", rows)

    def test_outliers_are_counted_by_the_rule_of_the_table(self):
        clustered.keep(self.run_folder, 1)
        text = self.document(run=self.run_folder).text()
        self.assertRegex(text, r"count as outliers: \d+ of 60 images")

    def test_without_centroids_it_says_how_to_get_a_map(self):
        text = self.document(run=self.run_folder).text()
        self.assertIn("keep_clusterings", text)
        self.assertIn("dc_tf report --clusters=CLUSTERS --data=DATA", text)

    def test_near_duplicates_in_the_run_folder_are_shown(self):
        text = self.document(run=self.run_folder).text()
        self.assertIn("dc_tf duplicates --run=RUN --output=RUN/duplicates", text)
        found = os.path.join(self.run_folder, "copies")
        os.makedirs(found)
        fingerprint = Dataset.open(self.data).fingerprint()
        write_json(os.path.join(found, "settings.json"), {"data": fingerprint})
        with open(os.path.join(found, "duplicates.csv"), "w") as file:
            file.write("row,group,keeper\n4,0,true\n8,0,false\n6,1,true\n7,1,false\n9,1,false\n")
        write_json(os.path.join(found, "duplicates.json"), {})
        text = self.document(run=self.run_folder).text()
        self.assertIn("5 images in 2 groups", text)

    def test_other_clusterings_of_the_same_images_stand_beside_it(self):
        rows = np.arange(clustered.ROWS)
        kmeans = clustered.write_kmeans(self.path("other_clusters"), rows % 4, np.eye(4))
        document = self.document(run=self.run_folder, compare=[kmeans])
        rows = [cell for cell in document.texts if cell.strip() == "other_clusters"]
        self.assertLen(rows, 2)  # of the table of agreement, of the legend of colours
        other = clustered.write_data(self.path("other"), rows=40)
        wrong = clustered.write_run(self.path("wrong"), other)
        with self.assertRaisesRegex((ConfigError, DataError), "trained on other images|clustered"):
            make(output=self.output, run=self.run_folder, compare=[wrong])

    def test_evaluations_of_the_folder_and_others_are_shown(self):
        result = {
            "task": "knn",
            "metric": "top1",
            "layers": {"conv1": {"top1": 0.5}, "conv2": {"top1": 0.25}},
            "random_init": {"conv1": {"top1": 0.25}, "conv2": {"top1": 0.375}},
            "below_random_init": ["conv2"],
            "test_rows": 1234,
        }
        for path in (os.path.join(self.run_folder, "knn.json"), self.path("mine.json")):
            with open(path, "w", encoding="utf-8") as file:
                json.dump(result | {"task": "low_shot"} if "mine" in path else result, file)
        alone = result | {"task": "linear_probe", "random_init": None, "below_random_init": None}
        with open(self.path("alone.json"), "w", encoding="utf-8") as file:
            json.dump(alone, file)
        worse = {"task": "retrieval", "map": 0.25, "advice": "R-MAC ends below an untrained one."}
        with open(self.path("worse.json"), "w", encoding="utf-8") as file:
            json.dump(worse, file)
        named = [self.path(f"{name}.json") for name in ("mine", "worse", "alone")]
        text = self.document(run=self.run_folder, evaluation_files=named).text()
        self.assertIn("conv1 best 50.0 25.0", text)
        self.assertIn("conv2 below untrained 25.0 37.5", text)
        self.assertIn("Few labels, top-1", text)
        self.assertEqual(text.count("not compared with an untrained network"), 1)
        self.assertIn("k-NN, top-1: conv2 ends below the same layer of an untrained", text)
        self.assertIn("Retrieval: R-MAC ends below an untrained one.", text)
        with self.assertRaisesRegex(ConfigError, "no JSON result|not a JSON result"):
            make(output=self.output, run=self.run_folder, evaluation_files=[self.run_folder])

    def test_a_run_that_remembers_a_layer_below_an_untrained_one_is_warned_of(self):
        def measured(own):
            return {
                "task": "knn",
                "metric": "top1",
                "opened": {"weights": str(own), "test": "t"},
                "train": "data",
                "test_rows": 1000,
                "protocol": {},
                "layers": {"conv13": {"top1": own}, "fc7": {"top1": 0.5}},
                "random_init": {"conv13": {"top1": 0.46}, "fc7": {"top1": 0.4}},
            }

        for own, warned in ((0.31, True), (0.5, False)):  # the newer one is shown
            remember(self.run_folder, measured(own))
            text = self.document(run=self.run_folder).text()
            warning = "k-NN, top-1: conv13 ends below the same layer of an untrained network."
            self.assertEqual(warning in text, warned)
            self.assertEqual("conv13 below untrained 31.0 46.0" in text, warned)

    def test_what_cannot_work_is_refused_before_anything_is_written(self):
        taken = self.path("taken.html")
        with open(taken, "w") as file:
            file.write("mine")
        for output, asked, message in (
            (self.output, {}, "give --run=RUN, or --clusters=OUT with --data=DATA"),
            (self.output, {"run": self.data}, "not the folder of a run"),
            (self.output, {"clusters": self.data}, "--data is missing"),
            (self.output, {"clusters": self.data, "data": self.data}, "not the --output of"),
            (self.path("none/report.html"), {"run": self.run_folder}, "cannot be written"),
            (self.folder, {"run": self.run_folder}, "cannot be written"),
            (taken, {"run": self.run_folder}, "is no report; use another, or --overwrite"),
            (self.output, {"run": self.run_folder, "max_mb": 26}, "use a number up to 25"),
            (self.output, {"run": self.run_folder, "max_rows": 0}, "at least 0 and at least 1"),
            (self.output, {"clusters": self.data, "round_index": 0}, "are of a run"),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                make(output=output, **asked)
        self.assertFalse(os.path.exists(self.output))
        with open(taken) as file:
            self.assertEqual(file.read(), "mine")
        make(output=taken, run=self.run_folder, overwrite=True)
        make(output=taken, run=self.run_folder)  # a report may be replaced
        self.assertTrue(page.is_report(taken))

    def test_the_command_prints_where_the_report_is(self):
        printed = io.StringIO()
        flags = f"--run={self.run_folder}", f"--output={self.output}", "--sheets=1"
        with contextlib.redirect_stdout(printed):
            self.assertEqual(main(["report", *flags]), 0)
        result = json.loads(printed.getvalue().splitlines()[-1])
        self.assertEqual(result["report"], self.output)
        self.assertEqual(result["clusters_shown"], 1)

    def test_several_workers_are_refused(self):
        worker = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
        with mock.patch.dict(os.environ, TF_CONFIG=json.dumps(worker)):
            with self.assertRaisesRegex(ConfigError, "names 2 workers, but dc_tf report runs on"):
                make(output=self.output, run=self.run_folder)


class HostileTest(ReportCase):
    def setUp(self):
        super().setUp()
        self.data = clustered.write_data(
            self.path("data"),
            meta=lambda row: {"hashtags": [HOSTILE], HOSTILE: "a" if row % 2 else HOSTILE},
            class_names=(HOSTILE, "dog\ud800"),
            source=lambda row: f"{HOSTILE}/{row}.png",
        )
        with open(os.path.join(self.data, "rejected.jsonl"), "w") as file:
            file.write(json.dumps({"path": HOSTILE, "reason": HOSTILE}) + "\nnot JSON\n[1]\n")

    def test_markup_in_metadata_labels_sources_and_warnings_of_a_run_stays_text(self):
        run = clustered.write_run(
            self.path("run"),
            self.data,
            lines=[
                {"event": "clustering", "step": 20, "stage": 1, "round": 1, "warnings": [HOSTILE]}
            ],
        )
        with open(os.path.join(run, "knn.json"), "w") as file:
            layers = {HOSTILE: {HOSTILE: 0.5}, "b": {HOSTILE: 0.25}}
            json.dump({"task": HOSTILE, "metric": HOSTILE, "layers": layers}, file)
        document = self.document(run=run)
        self.check(document, scripts=1)
        self.assertIn("3 files did not become rows", document.text())

    def test_markup_on_the_map_stays_text(self):
        rows = np.arange(clustered.ROWS)
        settings = {HOSTILE: HOSTILE}
        kmeans = clustered.write_kmeans(
            self.path("clusters"), rows % 5, np.eye(5), settings=settings, versions=settings
        )
        self.check(self.document(clusters=kmeans, data=self.data, sheets=2), scripts=2)

    def check(self, document, scripts):
        self.assertLen(document.all("script"), scripts)
        for tag, attributes in document.tags:
            handlers = {name for name in attributes if name.startswith("on")}
            self.assertEmpty(handlers, tag)
            self.assertNotIn("style", attributes)
        self.assertGreater(document.text().count("<script>alert(1)</script>"), 5)
        with open(self.output, encoding="utf-8") as file:
            self.assertNotRegex(file.read(), r"<script>alert|<img src=x")


class PartsTest(ReportCase):
    def test_without_labels_metadata_and_rounds_the_page_says_so(self):
        data = clustered.write_data(self.path("data"), labels=False)
        run = clustered.write_run(self.path("run"), data, rounds=1)
        text = self.document(run=run).text()
        self.assertIn("neither labels nor metadata", text)
        self.assertIn("one clustering only", text)

    def test_a_run_without_clusters_has_a_report(self):
        data = clustered.write_data(self.path("data"))
        run = clustered.write_run(self.path("run"), data, rounds=0)
        document = self.document(run=run)
        self.assertEqual(self.result["clusters"], 0)
        self.assertIn("no clusters", document.text())
        self.assertIn("Loss", document.text())

    def test_a_run_that_has_just_begun_has_a_report(self):
        data = clustered.write_data(self.path("data"))
        run = clustered.write_run(self.path("run"), data, rounds=0)
        os.remove(os.path.join(run, "metrics.jsonl"))
        self.assertIn("no line of training yet", self.document(run=run).text())

    def test_clusters_of_embeddings_have_a_report_with_a_map(self):
        data = clustered.write_data(self.path("data"), meta=clustered.photo)
        rows = np.arange(clustered.ROWS)
        kmeans = clustered.write_kmeans(
            self.path("clusters"), rows % 5, np.eye(5), warnings=["2 clusters are empty"]
        )
        document = self.document(clusters=kmeans, data=data)
        self.assertLen([a for a in document.all("circle") if "data-cluster" in a], 5)
        self.assertIn("Objective", document.text())
        self.assertIn("2 clusters are empty", document.text())
        self.assertIn("no network to show", document.text())

    def test_corrupt_rows_are_counted_and_shown_as_such(self):
        data = clustered.write_data(self.path("data"), rows=20)
        run = clustered.write_run(self.path("run"), data)
        (shard,) = [name for name in os.listdir(data) if name.endswith(".tfrecord")]
        with open(os.path.join(data, shard), "r+b") as file:
            file.seek(200)
            file.write(b"\0\0\0\0")
        text = self.document(run=run).text()
        self.assertIn("1 of the 20 rows that this report has read are corrupt", text)

    def test_corrupt_rows_of_training_are_a_warning(self):
        data = clustered.write_data(self.path("data"))
        line = {"event": "data", "step": 12, "corrupt_rows": 3, "corrupt_share": 0.1}
        run = clustered.write_run(self.path("run"), data, lines=[line])
        self.assertIn("3 corrupt rows were found in training", self.document(run=run).text())

    def test_colours_of_many_images_are_those_of_some_members_of_each_clustering(self):
        data = clustered.write_data(self.path("data"))
        run = clustered.write_run(self.path("run"), data)
        whole = self.document(run=run)
        with mock.patch.multiple(content, COLOURED=36, _PER_CLUSTER=6):
            some = self.document(run=run)
        for document in (whole, some):
            cells = [cell.strip() for cell in document.texts]
            self.assertEqual(cells.count("features of rotnet"), 1)  # the legend
            self.assertEqual(cells.count("Most uniform in colour"), 1)

    def test_a_sample_is_read_of_many_rows(self):
        data = clustered.write_data(self.path("data"), meta=clustered.photo)
        run = clustered.write_run(self.path("run"), data)
        text = self.document(run=run, max_rows=20).text()
        self.assertLess(self.result["rows_read"], clustered.ROWS)
        self.assertIn("half of them spread evenly", text)


class CapTest(ReportCase):
    @pytest.mark.merge
    @pytest.mark.slow
    def test_contact_sheets_are_left_out_where_they_do_not_fit(self):
        data = clustered.write_data(self.path("data"), meta=clustered.photo)
        run = clustered.write_run(self.path("run"), data)
        whole = make(output=self.output, run=run)
        small = (whole["bytes"] - 2000) / 1e6
        text = self.document(run=run, max_mb=small).text()
        self.assertLessEqual(os.path.getsize(self.output), small * 1e6)
        self.assertLess(self.result["clusters_shown"], whole["clusters_shown"])
        self.assertIn("are left out, so that the file stays below", text)
        self.assertIn(self.result["left_out"][0], text)
        with self.assertRaisesRegex(ConfigError, "without contact sheets has"):
            make(output=self.output, run=run, max_mb=0.01)

    def test_clusters_without_a_sheet_are_told(self):
        data = clustered.write_data(self.path("data"))
        run = clustered.write_run(self.path("run"), data)
        text = self.document(run=run, sheets=2).text()
        self.assertEqual(self.result["clusters_shown"], 2)
        self.assertIn("4 more clusters are in the statistics without a contact sheet", text)


@pytest.mark.slow
class TrainedTest(ReportCase):
    def test_a_trained_run_shows_its_filters_and_an_untrained_network(self):
        _, run = runs.undisturbed(1)
        document = self.document(run=run, random_init=True)
        text = document.text()
        self.assertIn("Filters of conv1", text)
        self.assertIn("untrained network", text)
        self.assertIn("horizontal gradient", text)
        self.assertLen([a for a in document.all("circle") if "data-cluster" in a], 8)
        self.assertIn("steps", text)
        self.assertNotIn("has not finished", text)


if __name__ == "__main__":
    tf.test.main()
