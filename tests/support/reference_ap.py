"""Average precision by another way than that of the package."""


def area_by_steps(ranked, positives, junk):
    """The benchmark's definition, a rank at a time."""
    positives = set(positives) - set(junk)
    area, recall, precision, hits, seen = 0.0, 0.0, 1.0, 0, 0
    for row in ranked:
        if row in junk:
            continue
        hits += row in positives
        seen += 1
        new_recall, new_precision = hits / len(positives), hits / seen
        area += (new_recall - recall) * (precision + new_precision) / 2
        recall, precision = new_recall, new_precision
    return area
