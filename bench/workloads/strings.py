"""Strings and regular expressions: split, join, replace, format, search, substitute."""
import re

WORD = re.compile(r"[a-z]+(?:-[a-z]+)?")
PAIR = re.compile(r"(?P<key>\w+)=(?P<value>[^;]*);")
DIGITS = re.compile(r"\d+")


def prepare(size):
    text = "; ".join("key%d=some-value %d with words" % (i, i * 7919) for i in range(40)) + ";"
    return size, text


def run(inputs):
    size, text = inputs
    total = 0
    for i in range(size):
        words = text.split(" ")
        joined = "-".join(words).replace("some", "any%d" % i)
        total += len(joined) + len(WORD.findall(text))
        pairs = {match.group("key"): match.group("value").strip().upper() for match in PAIR.finditer(text)}
        total += len("".join(sorted(pairs.values())))
        total += len(DIGITS.sub(lambda match: "<%s>" % match.group(), text))
        total += sum(map(len, ("{:>12}|{!r}".format(key, value) for key, value in pairs.items())))
    return total, None
