"""Dicts, sets and deques that grow, shrink and are thrown away: counting, grouping, a bounded cache."""
import collections


def prepare(size):
    return size


def run(size):
    cache = collections.OrderedDict()
    counts = collections.Counter()
    recent = collections.deque(maxlen=500)
    total = 0
    for i in range(size):
        key = "key-%d" % (i * 7919 % 5003)
        if key in cache:
            cache.move_to_end(key)
            total += len(cache[key])
        else:
            cache[key] = {"key": key, "parts": {i, i + 1, i + 2}}
            if len(cache) > 2000:
                cache.popitem(last=False)
        counts[key[-1]] += 1
        recent.append((i, key))
        if i % 1000 == 999:
            groups = collections.defaultdict(list)
            for number, name in recent:
                groups[name[-2:]].append(number)
            total += len({name: sorted(group) for name, group in groups.items()})
    return "%d %d" % (total, counts["7"]), None
