"""Rows of a table, parsed from text to dicts of strings, numbers and tuples, all of them kept."""
import csv


def prepare(size):
    return ["%d,name-%d,%d.%02d,%d;%d;%d" % (i, i, i % 977, i % 100, i, i + 1, i + 2) for i in range(size)]


def run(lines):
    records = []
    for number, name, price, tags in csv.reader(lines):
        records.append({
            "number": int(number),
            "name": name,
            "price": float(price),
            "tags": tuple(tags.split(";")),
        })
    return "%d %.2f" % (len(records), sum(record["price"] for record in records)), records
