"""JSON round trips of nested documents."""
import json


def document(i):
    return {
        "id": i,
        "name": "item %d" % i,
        "price": i * 0.25,
        "tags": ["t%d" % (i % 7), "u%d" % (i % 11)],
        "nested": {"deep": [{"x": j, "y": [j, j + 1, j * 0.5]} for j in range(8)], "flag": i % 2 == 0, "none": None},
    }


def prepare(size):
    return size


def run(size):
    length = 0
    total = 0
    for i in range(size):
        text = json.dumps(document(i))
        again = json.loads(text)
        length += len(text)
        total += again["nested"]["deep"][3]["x"] + again["id"]
    return "%d %d" % (length, total), None
