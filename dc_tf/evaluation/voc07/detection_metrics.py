"""How good boxes are: VOC's mean average precision at an overlap of one half, and COCO's.

    metrics = voc_metrics(split, detections)          # {"map", "map_11_points", "per_class"}
    metrics |= coco_metrics(split, detections)        # {"coco_map", "coco_map_50", "coco_map_75"}

`detections` is one (k, 6) array an image: top, left, bottom, right in pixels, score, class. An
object that is difficult counts in neither way: to find it is neither right nor wrong.

Reference: Everingham et al. 2010, section 4.2; Lin et al. 2014.
"""

import contextlib
import io

import numpy as np

from dc_tf.evaluation.average_precision import curve, eleven_points, enveloped_area

OVERLAP = 0.5
_NO_OBJECTS = -1.0  # COCO's metric where there was nothing to find


def overlaps(a, b) -> np.ndarray:
    """(n, m) intersection over union of (n, 4) and (m, 4) boxes, top, left, bottom, right."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    start = np.maximum(a[:, None, :2], b[None, :, :2])
    stop = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(stop - start, 0), -1)
    sizes = (np.prod(boxes[:, 2:] - boxes[:, :2], -1) for boxes in (a, b))
    union = np.add.outer(*sizes) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def voc_metrics(split, detections) -> dict:
    """VOC's metrics.

    Returns:
        `map`, mean over classes of the area under the curve (VOC 2010's, with each precision the
        best at its recall or beyond), `map_11_points` (VOC 2007's), shares in [0, 1], and
        `per_class`, the 11-point one by name. Classes with nothing to find are left out of means.
    """
    areas, points = [], []
    for number in range(len(split.classes)):
        scores, hits, positives = _judge(split.objects, detections, number)
        found = curve(scores, hits, positives)
        areas.append(enveloped_area(*found) if positives else np.nan)
        points.append(eleven_points(*found) if positives else np.nan)
    return {
        "map": float(np.nanmean(areas)),
        "map_11_points": float(np.nanmean(points)),
        "per_class": dict(zip(split.classes, points)),
    }


def _judge(every, detections, number):
    """(scores, hits, number of objects) of one class; detections that do not count are left out."""
    scores, hits, positives = [], [], 0
    for objects, found in zip(every, detections):
        mine = objects.classes == number
        difficult = objects.difficult[mine]
        positives += int(np.sum(~difficult))
        found = found[found[:, 5] == number]
        found = found[np.argsort(-found[:, 4], kind="stable")]
        kinds = _match(found[:, :4], objects.boxes[mine], difficult)
        scores.append(found[kinds >= 0, 4])
        hits.append(kinds[kinds >= 0] == 1)
    return np.concatenate(scores), np.concatenate(hits), positives


def _match(boxes, objects, difficult):
    """(n,) int: 1 right, 0 wrong, -1 of a difficult object; boxes by falling score."""
    kinds = np.zeros(len(boxes), int)
    taken = np.zeros(len(objects), bool)
    if not len(objects):
        return kinds
    # A box belongs to the object that it overlaps most, even if another has it already.
    shares = overlaps(boxes, objects)
    for i, best in enumerate(shares.argmax(1)):
        if shares[i, best] < OVERLAP:
            continue
        kinds[i] = -1 if difficult[best] else int(not taken[best])
        taken[best] = True
    return kinds


def coco_metrics(split, detections) -> dict:
    """COCO's metrics by its own program: mean over ten overlaps from .5 to .95, at .5, at .75.

    Difficult objects are its crowds. Images with no detection count, which they do not in the
    evaluator of tf-models-official: that takes the images from the detections.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found = [
        {
            "image_id": place,
            "category_id": int(row[5]),
            "bbox": _corner_and_size(row[:4]),
            "score": float(row[4]),
        }
        for place, rows in enumerate(detections)
        for row in rows
    ]
    names = ("coco_map", "coco_map_50", "coco_map_75")
    if not found:
        return dict.fromkeys(names, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # it reports each step
        truth = COCO()
        truth.dataset = _coco_dataset(split)
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(found), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return {n: None if v == _NO_OBJECTS else float(v) for n, v in zip(names, judged.stats)}


def _coco_dataset(split):
    annotations = []
    for place, objects in enumerate(split.objects):
        for box, number, difficult in zip(objects.boxes, objects.classes, objects.difficult):
            corner = _corner_and_size(box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": place,
                    "category_id": int(number),
                    "bbox": corner,
                    "area": corner[2] * corner[3],
                    "iscrowd": int(difficult),
                }
            )
    return {
        "info": {},
        "images": [{"id": place} for place in range(len(split))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(split.classes)],
        "annotations": annotations,
    }


def _corner_and_size(box):
    top, left, bottom, right = (float(value) for value in box)
    return [left, top, right - left, bottom - top]
