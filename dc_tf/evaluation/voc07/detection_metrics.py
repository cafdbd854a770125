"""Detection metrics: mean average precision of VOC, at an overlap of one half, and of COCO.

    metrics = voc_metrics(split, detections)          # {"map", "map_11_points", "per_class"}
    metrics |= coco_metrics(split, detections)        # {"coco_map", "coco_map_50", "coco_map_75"}

`detections` has one (k, 6) array per image: top, left, bottom, right in pixels, score, class.
Difficult objects are ignored: a detection of one is neither a true nor a false positive.

Reference: Everingham et al. 2010, section 4.2; Lin et al. 2014.
"""

import contextlib
import io

import numpy as np

from dc_tf.evaluation.average_precision import curve, eleven_points, enveloped_area

OVERLAP = 0.5
_NO_OBJECTS = -1.0  # pycocotools' value of a metric without objects


def overlaps(a, b) -> np.ndarray:
    """(n, m) intersection over union of (n, 4) and (m, 4) boxes (top, left, bottom, right)."""
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
        `map`, the mean over classes of the area under the precision envelope (VOC 2010),
        `map_11_points` (VOC 2007), shares in [0, 1], and `per_class`, the 11-point average
        precision by class name. Means leave out classes without objects.
    """
    areas, points = [], []
    for number in range(len(split.classes)):
        scores, hits, positives = _hits(split.objects, detections, number)
        found = curve(scores, hits, positives)
        areas.append(enveloped_area(*found) if positives else np.nan)
        points.append(eleven_points(*found) if positives else np.nan)
    return {
        "map": float(np.nanmean(areas)),
        "map_11_points": float(np.nanmean(points)),
        "per_class": dict(zip(split.classes, points, strict=True)),
    }


def _hits(every, detections, number):
    """(scores, hits, number of objects) of one class, without detections of difficult objects."""
    scores, hits, positives = [], [], 0
    for objects, found in zip(every, detections, strict=True):
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
    """(n,) int: 1 true positive, 0 false positive, -1 difficult; boxes by descending score."""
    kinds = np.zeros(len(boxes), int)
    taken = np.zeros(len(objects), bool)
    if not len(objects):
        return kinds
    # A box is assigned to the object that it overlaps most, even if that one is already matched.
    shares = overlaps(boxes, objects)
    for i, best in enumerate(shares.argmax(1)):
        if shares[i, best] < OVERLAP:
            continue
        kinds[i] = -1 if difficult[best] else int(not taken[best])
        taken[best] = True
    return kinds


def coco_metrics(split, detections) -> dict:
    """COCO's metrics by pycocotools: mean over ten overlaps from .5 to .95, at .5, at .75.

    Difficult objects are marked as crowds. Images without detections are included; the evaluator of
    tf-models-official leaves them out, since it takes the list of images from the detections.
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
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every step
        ground_truth = COCO()
        ground_truth.dataset = _coco_dataset(split)
        ground_truth.createIndex()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # `stats` has more values than these three.
    return {
        n: None if v == _NO_OBJECTS else float(v)
        for n, v in zip(names, evaluation.stats, strict=False)
    }


def _coco_dataset(split):
    annotations = []
    for place, objects in enumerate(split.objects):
        rows = zip(objects.boxes, objects.classes, objects.difficult, strict=True)
        for box, number, difficult in rows:
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
