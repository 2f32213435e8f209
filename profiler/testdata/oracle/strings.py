import re, string
words = ["w%d" % i for i in range(500)]
keep(" ".join(words))
keep([w.upper() + "\u00e9" for w in words])
keep([w.encode("utf-16") for w in words])
pat = re.compile(r"(\w+)-(\d+)(?P<rest>.*)")
keep([pat.match("item-%d tail %s" % (i, "z" * i)).groupdict() for i in range(100)])
keep(re.sub(r"\d", lambda m: m.group() * 2, " ".join(words)))
keep(["{:>20}|{!r}".format(w, w) for w in words])
keep([string.Template("$a $b").substitute(a=w, b=i) for i, w in enumerate(words[:100])])
s = ""
for i in range(2000):
    s += chr(32 + i % 90)
keep(s)
keep([10 ** i for i in range(0, 400, 7)])
