import numpy as np
import tensorflow as tf

from dc_tf.data.voc.devkit import Objects, VocSplit
from dc_tf.evaluation.voc07.detection_metrics import coco_metrics, overlaps, voc_metrics


def split_of(*images, classes=("cat", "dog")):
    """Images as lists of (box, class, difficult)."""
    objects = tuple(
        Objects(
            np.array([o[0] for o in image], np.float32).reshape(-1, 4),
            np.array([o[1] for o in image], np.int32),
            np.array([o[2] for o in image], bool),
        )
        for image in images
    )
    paths = tuple(f"{i}.jpg" for i in range(len(images)))
    return VocSplit("", "test", classes, paths, np.full((len(images), 2), 100), objects)


def found(*rows):
    """Detections (box, score, class) of an image."""
    return np.array([[*box, score, number] for box, score, number in rows]).reshape(-1, 6)


def random_scene(seed, images=12):
    random = np.random.default_rng(seed)
    scene, detections = [], []
    for _ in range(images):
        objects, rows = [], []
        for _ in range(random.integers(0, 5)):
            corner, size = random.integers(0, 60, 2), random.integers(10, 40, 2)
            box = np.concatenate([corner, corner + size])
            number = random.integers(2)
            objects.append((box, number, random.random() < 0.2))
            for _ in range(random.integers(0, 3)):
                moved = box + random.integers(-6, 7, 4)
                rows.append(
                    (moved, random.random(), number if random.random() < 0.8 else 1 - number)
                )
        scene.append(objects)
        detections.append(found(*rows))
    return split_of(*scene), detections


def slow_eleven_points(split, detections, number):
    """The development kit's algorithm: one detection at a time over all images."""
    rows = [(r[4], p, r[:4]) for p, image in enumerate(detections) for r in image if r[5] == number]
    rows.sort(key=lambda row: -row[0])
    taken, right, wrong, points = set(), 0, 0, []
    positives = sum(np.sum((o.classes == number) & ~o.difficult) for o in split.objects)
    for _, place, box in rows:
        objects = split.objects[place]
        best, best_at = 0.0, None
        for i, (other, label) in enumerate(zip(objects.boxes, objects.classes, strict=True)):
            if label != number:
                continue
            height = min(box[2], other[2]) - max(box[0], other[0])
            width = min(box[3], other[3]) - max(box[1], other[1])
            if height > 0 and width > 0:
                union = (box[2] - box[0]) * (box[3] - box[1]) - height * width
                union += (other[2] - other[0]) * (other[3] - other[1])
                if height * width / union > best:
                    best, best_at = height * width / union, i
        if best >= 0.5 and objects.difficult[best_at]:
            continue
        if best >= 0.5 and (place, best_at) not in taken:
            taken.add((place, best_at))
            right += 1
        else:
            wrong += 1
        points.append((right, right / (right + wrong)))
    best_at_tenths = [
        max((p for r, p in points if 10 * r >= tenth * positives), default=0.0)
        for tenth in range(11)
    ]
    return np.mean(best_at_tenths)


class DetectionsTest(tf.test.TestCase):
    def test_overlaps_in_closed_form(self):
        a = [[0, 0, 10, 10], [0, 0, 0, 0]]
        b = [[0, 0, 10, 10], [5, 0, 15, 10], [0, 10, 10, 20], [2, 2, 4, 7]]
        self.assertAllClose(overlaps(a, b), [[1, 1 / 3, 0, 0.1], [0, 0, 0, 0]])

    def test_finding_everything_gives_one_for_all_metrics(self):
        box = (10, 10, 40, 50)
        split = split_of([(box, 0, False), ((50, 50, 90, 90), 1, False)], [])
        rows = found((box, 0.9, 0), ((50, 50, 90, 90), 0.8, 1))
        metrics = voc_metrics(split, [rows, found()]) | coco_metrics(split, [rows, found()])
        for name in ("map", "map_11_points", "coco_map", "coco_map_50", "coco_map_75"):
            self.assertAlmostEqual(metrics[name], 1.0, places=5)

    def test_finding_an_object_twice_is_wrong_once(self):
        box = (10, 10, 40, 50)
        split = split_of([(box, 0, False)], [(box, 0, False)], classes=("cat",))
        twice = found((box, 0.9, 0), (box, 0.8, 0))
        metrics = voc_metrics(split, [twice, found((box, 0.7, 0))])
        self.assertAlmostEqual(metrics["map"], (1 + 2 / 3) / 2)
        self.assertAlmostEqual(metrics["map_11_points"], (6 + 5 * 2 / 3) / 11)

    def test_difficult_objects_count_in_neither_way(self):
        easy, hard = (10, 10, 40, 50), (50, 50, 90, 90)
        split = split_of([(easy, 0, False), (hard, 0, True)], classes=("cat",))
        one = found((easy, 0.5, 0))
        both = found((easy, 0.5, 0), (hard, 0.9, 0), (hard, 0.8, 0))
        for rows in (one, both):
            metrics = voc_metrics(split, [rows]) | coco_metrics(split, [rows])
            self.assertAlmostEqual(metrics["map"], 1.0)
            self.assertAlmostEqual(metrics["coco_map"], 1.0, places=5)

    def test_an_overlap_of_one_half_suffices_for_voc_only(self):
        split = split_of([((0, 0, 20, 20), 0, False)], classes=("cat",))
        rows = found(((0, 0, 20, 12), 0.9, 0))  # 0.6: COCO's thresholds .5, .55 and .6
        metrics = voc_metrics(split, [rows]) | coco_metrics(split, [rows])
        self.assertAlmostEqual(metrics["map"], 1.0)
        self.assertAlmostEqual(metrics["coco_map"], 0.3, places=5)
        self.assertAlmostEqual(metrics["coco_map_50"], 1.0, places=5)
        self.assertAlmostEqual(metrics["coco_map_75"], 0.0)

    def test_images_without_detections_still_count(self):
        box = (10, 10, 40, 50)
        split = split_of([(box, 0, False)], [(box, 0, False)], classes=("cat",))
        metrics = coco_metrics(split, [found((box, 0.9, 0)), found()])
        self.assertAlmostEqual(metrics["coco_map"], 51 / 101, places=5)
        self.assertEqual(coco_metrics(split, [found(), found()])["coco_map"], 0.0)
        self.assertEqual(voc_metrics(split, [found(), found()])["map"], 0.0)

    def test_metrics_equal_those_of_the_development_kits_algorithm(self):
        for seed in range(8):
            split, detections = random_scene(seed)
            metrics = voc_metrics(split, detections)
            for number, name in enumerate(split.classes):
                expected = slow_eleven_points(split, detections, number)
                self.assertAlmostEqual(metrics["per_class"][name], expected, places=12)
            self.assertAlmostEqual(
                metrics["map_11_points"], np.mean(list(metrics["per_class"].values()))
            )

    def test_coco_at_one_half_is_near_vocs_area(self):
        # COCO samples the envelope at 101 recalls and may match a second box to another object.
        for seed in range(4):
            split, detections = random_scene(seed, images=40)
            ours = voc_metrics(split, detections)["map"]
            self.assertAllClose(coco_metrics(split, detections)["coco_map_50"], ours, atol=0.03)


if __name__ == "__main__":
    tf.test.main()
