# Allocates and frees all the time in the only thread, and knows what must come out.
rounds = 0
kept = {}


def step():
    global rounds
    rounds += 1
    table = {"key %d" % i: [i, str(i), (i, float(i))] for i in range(300)}
    assert sum(entry[0] for entry in table.values()) == 44850
    assert "".join(entry[1] for entry in table.values()).count("9") == 60
    kept[rounds % 50] = table
    data = bytearray(1 << 14)
    data.extend(b"x" * 5000)
    assert data.count(b"x") == 5000


def check():
    assert rounds > 0
    for table in kept.values():
        assert all(entry == [i, str(i), (i, float(i))] for i, entry in enumerate(table.values()))
